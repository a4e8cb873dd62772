"""Export: the stage's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.config import EngineConfig, Reference, StageConfig

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class ExportStage(StageConfig):
    """A model folder that ranks: merged weights, tokenizer, reranker.json."""

    uploads: ClassVar[str] = "model"

    model: str = "grpo"
    """The name of a training stage, or NAME@STEP for one of its checkpoints."""

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        yield Reference.to_model("model", self.model)

    def reads(self, before: Mapping[str, StageConfig]) -> set[str]:
        return super().reads(before) | {name for name, stage in before.items() if stage.leaves == "measures"}

    def paradigms(self, plugins: Plugins) -> Sequence[str]:
        return [plugins.config.paradigm]

    def asks(self, plugins: Plugins) -> EngineConfig | None:
        return plugins.config.engine

    def check(self, name: str, plugins: Plugins) -> None:
        if plugins.engine(plugins.config.engine).has_own_model:
            raise ValueError(
                f"stages.{name} exports a model of ours, for which engine.kind must be hf or vllm; a stage can have an "
                "engine of its own, such as stages.NAME.engine.kind=hf"
            )

    def results(self, folder: Path) -> list[str]:
        return [f"exported model: {path.parent}" for path in sorted(folder.rglob("reranker.json"))]
