"""Averages of models' weights: the stage's settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.config import Reference, StageConfig
from rl_rerank.engines.local import hub

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class AverageStage(StageConfig):
    """A model whose weights are the means of other models' weights: a model soup, or an average of checkpoints.

    Source: Wortsman et al. 2022, https://arxiv.org/abs/2203.05482
    """

    leaves: ClassVar[str] = "a model"
    reads_data: ClassVar[bool] = False
    loads_model: ClassVar[bool] = True

    models: list[str]
    """At least two: `model` for the configured model, earlier stages that leave one, or NAME@STEP for a checkpoint; or
    folders and hub ids, which have a slash, such as models of other runs. All of one architecture, which come from one
    starting model; adapters of checkpoints are merged first."""
    weights: list[float] | None = None
    """Weight of each, at least 0; they are divided by their sum. null: all equal."""

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ValueError(f"average stage: models must name at least two models; got {self.models}")
        if repeated := [model for model in self.models if self.models.count(model) > 1]:
            raise ValueError(f"average stage: models names {repeated[0]} twice; give it a larger weight instead")
        if self.weights is None:
            return
        if len(self.weights) != len(self.models):
            raise ValueError(
                f"average stage: weights must be as many as models, {len(self.models)}; got {len(self.weights)}"
            )
        for weight in self.weights:
            if not 0 <= weight < math.inf:
                raise ValueError(f"average stage: weights must be finite numbers of at least 0; got {weight}")
        if not sum(self.weights):
            raise ValueError("average stage: at least one weight must be above 0; all are 0")

    @property
    def shares(self) -> list[float]:
        """The weights, with a sum of 1."""
        weights = self.weights or [1.0] * len(self.models)
        return [weight / sum(weights) for weight in weights]

    @property
    def uses_default_paradigm(self) -> bool:
        return False

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        for model in self.models:
            if model != "model" and not hub.is_path(model):
                yield Reference.to_model("models", model, also=("model", "a folder"))

    def requires(self, plugins: Plugins) -> Sequence[str]:
        return ["torch", "transformers", "safetensors"]

    def check(self, name: str, plugins: Plugins) -> None:
        for model in self.models:
            if hub.is_path(model) and hub.is_folder(model) and not Path(model).expanduser().is_dir():
                raise FileNotFoundError(f"stages.{name}.models names {model!r}, and there is no such folder")

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        parts = ", ".join(f"{share:.3g} {model}" for share, model in zip(self.shares, self.models, strict=True))
        return [f"average of weights: {parts}"]
