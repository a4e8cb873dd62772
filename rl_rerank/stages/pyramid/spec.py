"""A model whose lower layers do not mix the prompt's messages: the stage's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.config import Reference, StageConfig

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class PyramidStage(StageConfig):
    """The weights of a model as those of a pyramid, which a later stage distils from the model.

    Source: Zou et al. 2021, https://arxiv.org/abs/2105.11108
    """

    leaves: ClassVar[str] = "a model"
    reads_data: ClassVar[bool] = False
    loads_model: ClassVar[bool] = True

    model: str = "model"
    """`model`, or an earlier stage that leaves one."""
    upper: float = 0.25
    """Share of the layers that see the whole prompt, rounded up to whole layers; the others see one message alone."""

    def __post_init__(self) -> None:
        if not 0 < self.upper < 1:
            raise ValueError(f"pyramid stage: upper must be above 0 and below 1; got {self.upper}")

    @property
    def uses_default_paradigm(self) -> bool:
        return False

    @property
    def start(self) -> str:
        return self.model

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        if self.model != "model":
            yield Reference.to_model("model", self.model, also=("model",))

    def requires(self, plugins: Plugins) -> Sequence[str]:
        return ["torch", "transformers", "safetensors"]

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        return [f"pyramid of {self.model}: {self.upper:.0%} of the layers see the whole prompt"]
