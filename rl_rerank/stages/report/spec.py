"""The report: the stage's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.config import Config, StageConfig

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class ReportStage(StageConfig):
    """One self-contained HTML page with tables and plots about the last evaluation before it."""

    reads_data: ClassVar[bool] = False

    title: str = ""

    def evaluation(self, name: str, config: Config) -> str:
        """Name the evaluate stage that it reports on.

        Args:
            name: its own.

        Raises:
            ValueError: if there is none before it.
        """
        found = [n for n, stage in config.before(self).items() if stage.leaves == "measures"]
        if not found:
            raise ValueError(f"stages.{name}: no evaluate stage stands before it, so there is nothing to report on")
        return found[-1]

    def check(self, name: str, plugins: Plugins) -> None:
        super().check(name, plugins)
        self.evaluation(name, plugins.config)

    def reads(self, before: Mapping[str, StageConfig]) -> set[str]:
        return set(before)

    def results(self, folder: Path) -> list[str]:
        return [f"report: {page}" for page in sorted(folder.glob("*.html"))]
