"""How far two runs agree: the stage's settings, and what the plan says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rl_rerank.config import Reference, StageConfig

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class AgreementStage(StageConfig):
    """Compare the orders of two runs, query by query."""

    runs: list[str] = field(default_factory=list)
    """The two stages whose runs are compared."""

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        for run in self.runs:
            yield Reference("runs", run, needs="a run")

    def check(self, name: str, plugins: Plugins) -> None:
        if len(self.runs) != 2:
            raise ValueError(f"stages.{name}.runs names the two stages to be compared; got {self.runs}")

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        return [f"agreement: Kendall's tau of {' and '.join(self.runs)}"]

    def results(self, folder: Path) -> list[str]:
        return [(folder / "agreement.txt").read_text(encoding="utf-8").strip()]
