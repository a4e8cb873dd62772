"""Supervised fine-tuning: the cold start that teaches answer formats, or orders."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import get_peft_model
from transformers import Trainer, set_seed
from trl.trainer.sft_config import SFTConfig

from rl_rerank import data
from rl_rerank.config import Config
from rl_rerank.data.examples import ExampleFile
from rl_rerank.engines.local import checkpoint
from rl_rerank.paradigms.base import check_template
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.plugins import Plugins
from rl_rerank.stages.sft.spec import SFTStage
from rl_rerank.stages.training import training_examples
from rl_rerank.training.exact.lists import ListCollator, lists, reading
from rl_rerank.training.exact.supervised import RankingTrainer
from rl_rerank.training.loop import lengths, lora_targets, order, precision, tracking
from rl_rerank.training.loop.answers import AnswerTrainer
from rl_rerank.training.loop.arguments import peft_config
from rl_rerank.training.loop.checkpoints import Checkpoints, resumable_checkpoint, writing
from rl_rerank.training.loop.models import SavesProcessor, save_trained
from rl_rerank.training.loop.preemption import Preemption
from rl_rerank.training.loop.rank_weights import RankWeights
from rl_rerank.training.loop.rows import RowFile, tokenised
from rl_rerank.training.loop.training_log import Records
from rl_rerank.training.loop.watch import Watch
from rl_rerank.training.losses.build import build_loss
from rl_rerank.training.memory import budget as memory_budget

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: SFTStage) -> None:
    """Train on synthesised rows, or on lists by a ranking loss, and leave run_dir/<name>/model."""
    output = Path(config.run_dir) / name
    tracking.prepare(config, output)
    precision.record(stage, output)
    set_seed(stage.seed)  # adapters are made before a trainer would seed
    start = checkpoint.locate(config, stage.model)
    lengths.check_context(config.model, name, stage.completion_tokens(Plugins(config)), start)
    lora_targets.check(config.model, name, stage.lora, trains_head=stage.trains_head, folder=start)
    tokenizer = checkpoint.load_tokenizer(start, config.model.trust_remote_code)
    # Before the arguments, which let ZeRO-3 shard every model that is built, also the one that memory is counted on.
    budget = memory_budget.tokens(stage, name, Plugins(config), start)
    build = _ranking_trainer if stage.is_ranking else _completion_trainer
    trainer = build(config, name, stage, start, tokenizer, stage.arguments(config, output), budget)
    preemption = Preemption(output, trainer.accelerator)
    trainer.add_callback(preemption)
    trainer.add_callback(Records(output))
    trainer.add_callback(tracking.ConfigRecord(config))
    trainer.add_callback(Watch(stage.health))
    trainer.add_callback(SavesProcessor(start, config.model.trust_remote_code))
    trainer.add_callback(Checkpoints(trainer.accelerator, preemption, config.checkpoints_read(name)))
    precision.require_masters(trainer)
    resumed = resumable_checkpoint(output / "checkpoints", trainer.accelerator)
    with preemption.listening():
        trainer.train(resume_from_checkpoint=resumed)
    with writing(trainer.args, trainer.state, "the model"):
        save_trained(trainer, tokenizer, output / "model", stage=stage, model=config.model, start=start)


def _completion_trainer(
    config: Config,
    name: str,
    stage: SFTStage,
    start: Path,
    tokenizer: Any,
    arguments: SFTConfig,
    micro_batch_tokens: int | None,
) -> Trainer:
    assert stage.source is not None
    folder = Path(config.run_dir) / stage.source
    renderer = checkpoint.renderer(config.model, start)
    examples = ExampleFile(folder / "examples.jsonl")
    rows = RowFile(folder / "rows.jsonl", examples, config.model.max_prompt_tokens)
    paradigms = {kind: build_paradigm(config, kind) for kind in rows.paradigms}
    weights = RankWeights(**stage.loss_params) if stage.loss == "fullrank" else None
    made = tokenised(rows, examples, paradigms, renderer, weights=weights, long_documents=stage.long_documents)
    lengths.warn_of_longest(name, examples, paradigms.values(), renderer)
    logger.info("sft on %d rows, about %d tokens", len(rows), rows.lengths.sum())
    return AnswerTrainer(
        rows=made,
        pad_id=tokenizer.pad_token_id,
        micro_batch_tokens=micro_batch_tokens,
        model=precision.load(start, config.model, stage, arguments, renderer.vision),
        args=arguments,
        train_dataset=Dataset.from_dict({"index": _order(stage, rows.lengths.tolist())}),
        processing_class=tokenizer,
        peft_config=peft_config(stage.lora),
    )


def _ranking_trainer(
    config: Config,
    name: str,
    stage: SFTStage,
    start: Path,
    tokenizer: Any,
    arguments: SFTConfig,
    micro_batch_tokens: int | None,
) -> Trainer:
    paradigm = build_paradigm(config, config.paradigm)
    renderer = checkpoint.renderer(config.model, start)
    check_template(paradigm, renderer)
    store = data.prepare(config.data, Path(config.run_dir) / "data")
    examples = training_examples(config, stage.data, store)
    lengths.warn_of_longest(name, examples, [paradigm], renderer)
    asked = lists(
        examples,
        paradigm,
        renderer,
        count=stage.max_steps * stage.batch_size,
        size=stage.list_size,
        seed=stage.seed,
        targets=stage,
        with_answers=stage.answer_weight > 0,
        long_documents=stage.long_documents,
    )
    read = reading(paradigm, renderer, stage.long_documents)
    model = precision.load(start, config.model, stage, arguments, renderer.vision)
    if (adapter := peft_config(stage.lora)) is not None:
        model = get_peft_model(model, adapter)
    return RankingTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"index": _order(stage, asked.num_documents().tolist())}),
        data_collator=ListCollator(asked, read, with_answers=stage.answer_weight > 0),
        pad_id=tokenizer.pad_token_id,
        micro_batch_tokens=micro_batch_tokens,
        loss=build_loss("sft stage", stage.loss, stage.loss_params),
        answer_weight=stage.answer_weight,
        curriculum=stage.curriculum,
        processing_class=tokenizer,
    )


def _order(stage: SFTStage, lengths: Sequence[int]) -> list[int]:
    """The rows of all steps. Those of one length are mostly of one paradigm: less padding, and because the loss is a
    mean over a step's tokens, long answers would otherwise drown the one-word ones."""
    return order.by_length(lengths, steps=stage.max_steps, rows=stage.batch_size, seed=stage.seed)
