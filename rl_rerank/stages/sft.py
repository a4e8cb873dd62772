"""Supervised fine-tuning: the cold start that teaches answer formats."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from peft import get_peft_model
from transformers import Trainer
from trl.trainer.sft_config import SFTConfig

from rl_rerank import data, lengths
from rl_rerank.config import Config, SFTStage
from rl_rerank.data.examples import ExampleFile
from rl_rerank.engines import checkpoint
from rl_rerank.paths import read_jsonl
from rl_rerank.rendering import Renderer
from rl_rerank.rerank import build_paradigm
from rl_rerank.training import tracking
from rl_rerank.training.arguments import peft_config, sft_arguments
from rl_rerank.training.models import save_trained
from rl_rerank.training.records import Records, resumable_checkpoint
from rl_rerank.training.rows import tokenised
from rl_rerank.training.sft import AnswerTrainer
from rl_rerank.training.softmax import SoftmaxTrainer, lists

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: SFTStage) -> None:
    """Train on synthesised rows, or on lists with the softmax loss, and leave run_dir/<name>/model."""
    output = Path(config.run_dir) / name
    tracking.prepare(config, output)
    start = checkpoint.locate(config, stage.model)
    lengths.check_context(config, name, stage, start)
    tokenizer = checkpoint.load_tokenizer(start, config.model.trust_remote_code)
    build = _completion_trainer if stage.loss == "completion" else _softmax_trainer
    trainer = build(config, stage, start, tokenizer, sft_arguments(config, stage, output))
    trainer.add_callback(Records(output, trainer.accelerator))
    trainer.add_callback(tracking.ConfigRecord(config))
    trainer.train(resume_from_checkpoint=resumable_checkpoint(output / "checkpoints", trainer.accelerator))
    save_trained(trainer, tokenizer, output / "model", stage=stage, model=config.model, start=start)


def _completion_trainer(config: Config, stage: SFTStage, start: Path, tokenizer: Any, arguments: SFTConfig) -> Trainer:
    rows = read_jsonl(Path(config.run_dir) / stage.data / "rows.jsonl")
    paradigms = {kind: build_paradigm(config, kind) for kind in {row["paradigm"] for row in rows}}
    examples = ExampleFile(Path(config.run_dir) / stage.data / "examples.jsonl")
    dataset = tokenised(rows, examples, paradigms, checkpoint.renderer(config.model, start))
    logger.info("sft on %d rows, %d tokens", len(dataset), sum(map(len, dataset["input_ids"])))
    return AnswerTrainer(
        model=checkpoint.load_model(start, config.model.dtype, config.model.trust_remote_code),
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=peft_config(stage.lora),
    )


def _softmax_trainer(config: Config, stage: SFTStage, start: Path, tokenizer: Any, arguments: SFTConfig) -> Trainer:
    paradigm = build_paradigm(config, config.paradigm)
    if len(paradigm.continuations) != 2:
        raise ValueError(
            f"loss=softmax needs a paradigm that scores two continuations, such as pointwise; {config.paradigm!r} "
            f"scores {len(paradigm.continuations)}"
        )
    renderer = checkpoint.renderer(config.model, start)
    positive, negative = (_single(renderer, text) for text in paradigm.continuations)
    store = data.prepare(config.data, Path(config.run_dir) / "data")
    dataset = lists(
        store.examples("train"),
        paradigm,
        renderer,
        count=stage.max_steps * stage.batch_size,
        size=stage.list_size,
        seed=stage.seed,
    )
    model = checkpoint.load_model(start, config.model.dtype, config.model.trust_remote_code)
    if (adapter := peft_config(stage.lora)) is not None:
        model = get_peft_model(model, adapter)
    return SoftmaxTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        positive_id=positive,
        negative_id=negative,
        end_id=renderer.end_id,
        answer_weight=stage.answer_weight,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )


def _single(renderer: Renderer, text: str) -> int:
    ids = renderer.continuation_ids(text)
    if len(ids) != 1:
        raise ValueError(f"loss=softmax needs single-token answers; {text!r} is {len(ids)} tokens in this tokenizer")
    return ids[0]
