"""Train a cross-encoder with sentence-transformers: an encoder whose head gives the log-odds of a prompt's answer."""

from __future__ import annotations

import itertools
import logging
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Value
from datasets.arrow_writer import ArrowWriter
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from rl_rerank import data
from rl_rerank.config import Config
from rl_rerank.engines.local import hub, minilm
from rl_rerank.engines.local.pairs import PairTexts
from rl_rerank.io.files import replacing_folder
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.cross_encoder.spec import CrossEncoderStage
from rl_rerank.training.loop import tracking
from rl_rerank.training.loop.training_log import Records
from rl_rerank.types import Prompt, RankingExample

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: CrossEncoderStage) -> None:
    """Leave the trained cross-encoder in run_dir/<name>/model, whole or not at all."""
    output = Path(config.run_dir) / name
    tracking.prepare(config, output)
    set_seed(stage.seed)  # before a head is made
    encoder = start(name, stage, config.model.max_prompt_tokens)
    if stage.max_steps:
        _train(config, name, stage, encoder, output)
    with replacing_folder(output / "model") as partial:
        encoder.save_pretrained(str(partial), create_model_card=False)


def _train(config: Config, name: str, stage: CrossEncoderStage, encoder: CrossEncoder, output: Path) -> None:
    tokenizer: Any = encoder.tokenizer
    texts = PairTexts(tokenizer, encoder.max_seq_length or 0, config.model.max_passage_tokens)
    paradigm = build_paradigm(config, stage.paradigm or config.paradigm)
    store = data.prepare(config.data, output.parent / "data")
    count = stage.max_steps * stage.batch_size
    drawn = prompts(name, store.examples("train"), paradigm, count=count, seed=stage.seed)
    trainer = CrossEncoderTrainer(
        model=encoder,
        args=arguments(stage, output),
        train_dataset=written(output / "rows.arrow", drawn, texts),
        loss=BinaryCrossEntropyLoss(encoder),
        callbacks=[Records(output)],
    )
    trainer.train()
    logger.info("%s: trained on %d %s prompts", name, count, paradigm.name)


def start(name: str, stage: CrossEncoderStage, max_tokens: int) -> CrossEncoder:
    """Load the encoder with a head of one number, which is random if the folder has none."""
    place = f"stages.{name}.model"
    if stage.model == minilm.NAME:
        folder = minilm.folder()
    elif hub.is_folder(stage.model):
        folder = Path(stage.model).expanduser()
    else:
        folder = hub.snapshot(place, stage.model, stage.revision)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder), num_labels=1, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    # Files of the folder that describe it as another kind of model, such as one that pools embeddings, stay behind.
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        encoder = CrossEncoder(plain, num_labels=1, local_files_only=True, activation_fn=torch.nn.Identity())
    positions = getattr(model.config, "max_position_embeddings", max_tokens)
    encoder.max_seq_length = min(encoder.max_seq_length or positions, positions, max_tokens)
    # A document that spells out a control token must not have it.
    own: Any = encoder.tokenizer
    own.split_special_tokens = True
    return encoder


def prompts(
    name: str, examples: Sequence[RankingExample], paradigm: Paradigm, *, count: int, seed: int
) -> Iterator[tuple[Prompt, float]]:
    """Draw `count` prompts with their labels in passes over the examples, each pass in a fresh order.

    A label is 1 where the first continuation is the correct answer, and 0 where the second is.

    Raises:
        ValueError: if no example gives a prompt.
    """
    positive, negative = paradigm.continuations
    labels = {positive: 1.0, negative: 0.0}

    def passes() -> Iterator[tuple[Prompt, float]]:
        for turn in itertools.count():
            order = list(range(len(examples)))
            random.Random(f"{seed}:{turn}").shuffle(order)
            is_empty = True
            for place in order:
                example = examples[place]
                for prompt in paradigm.prompts(example, random.Random(f"{seed}:{turn}:{example.qid}")):
                    is_empty = False
                    yield prompt, labels[paradigm.target(example, prompt)]
            if is_empty:
                raise ValueError(f"stages.{name}: no training query has candidates of different grades to learn from")

    return itertools.islice(passes(), count)


def written(path: Path, drawn: Iterable[tuple[Prompt, float]], texts: PairTexts) -> Dataset:
    """Write the texts of prompts with their labels into a file, because they may be many, and open it."""
    features = Features({"query": Value("string"), "document": Value("string"), "label": Value("float32")})
    with ArrowWriter(features=features, path=str(path)) as writer:
        for prompt, label in drawn:
            query, document = texts(prompt)
            writer.write({"query": query, "document": document, "label": label})
        writer.finalize()
    return Dataset.from_file(str(path))


def arguments(stage: CrossEncoderStage, output: Path) -> CrossEncoderTrainingArguments:
    """Build the trainer's arguments.

    Raises:
        ValueError: if several GPUs are visible, over which the trainer would spread larger steps.
    """
    micro_batch = stage.micro_batch or stage.batch_size
    found = CrossEncoderTrainingArguments(
        output_dir=str(output / "checkpoints"),
        learning_rate=stage.learning_rate,
        max_steps=stage.max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=stage.batch_size // micro_batch,
        lr_scheduler_type=stage.schedule,
        warmup_steps=round(stage.warmup_ratio * stage.max_steps),
        weight_decay=stage.weight_decay,
        bf16=stage.bf16,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=stage.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )
    if found.n_gpu > 1:
        raise ValueError(
            f"a cross_encoder stage trains on one GPU, and {found.n_gpu} are visible; set CUDA_VISIBLE_DEVICES to one"
        )
    return found
