"""On-policy distillation: `stages.NAME.policy.distill`, by a model of sampled completions or by scores of lists."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rl_rerank.config import Config, ModelConfig, Reference
from rl_rerank.engines.local import hub
from rl_rerank.training.loop import lengths

if TYPE_CHECKING:
    from rl_rerank.stages.preview import Preview


@dataclass(kw_only=True)
class TokenTeacher:
    """A model whose log-probabilities of the sampled tokens are advantages beside those of the rewards."""

    model: str
    """Where it is: `model` for the configured model, an earlier stage that leaves one, or NAME@STEP; or a folder or a
    hub id, which has a slash. Its vocabulary must be that of the trained model."""
    weight: float = 1.0
    """Weight of the teacher's part of an advantage. 0 disables it."""

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the model is a folder or a hub id, and not of this experiment."""
        return hub.is_path(self.model)

    def references(self) -> Iterator[Reference]:
        """Yield the stage that it names."""
        if self.model != "model" and not self.is_elsewhere:
            yield Reference.to_model("policy.distill.model", self.model, also=("model", "a folder"))

    def settings(self, config: Config) -> ModelConfig:
        """Settings of the model, as far as its size and its type depend on them."""
        return replace(config.model, path=self.model, revision=None) if self.is_elsewhere else config.model

    def check(self, name: str, config: Config, completion_tokens: int) -> None:
        """Refuse a folder that does not exist, and one whose model has a shorter context than the prompts need."""
        if not self.is_elsewhere:
            return
        place = f"stages.{name}.policy.distill.model"
        if hub.is_folder(self.model) and not Path(self.model).expanduser().is_dir():
            raise FileNotFoundError(f"{place}={self.model}: there is no such folder")
        lengths.check_context(self.settings(config), f"{name}.policy.distill.model", completion_tokens)

    def check_vocabulary(self, name: str, preview: Preview) -> None:
        """Refuse a teacher in a folder of this machine with another vocabulary than the trained model's.

        Raises:
            ValueError: with a token that differs.
        """
        if not self.is_elsewhere or preview.is_estimate:
            return
        try:
            theirs = lengths.local_tokenizer(self.settings(preview.config))
        except OSError:  # not here; the stage compares them when it starts
            return
        require = importlib.import_module("rl_rerank.engines.local.tokenizer").require_same_vocabulary
        require(f"stages.{name}.policy.distill.model={self.model}", theirs, preview.tokenizer)


@dataclass(kw_only=True)
class ScoreTeacher:
    """A teacher's scores in the data (`scores`) define the orders that drawn ones should be like."""

    weight: float = 1.0
    """Weight of the KL of the policy to the teacher. 0 disables it."""
    temperature: float = 1.0
    """Divides the teacher's scores; the lower, the more certain of its order the teacher is."""

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if self.temperature <= 0:
            raise ValueError(f"grpo stage: policy.distill.temperature must be above 0; got {self.temperature}")


def _check_weight(weight: float) -> None:
    if not weight >= 0:
        raise ValueError(f"grpo stage: policy.distill.weight must be at least 0; got {weight}")
