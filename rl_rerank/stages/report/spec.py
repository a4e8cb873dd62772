"""The report: the stage's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rl_rerank.config import StageConfig


@dataclass(kw_only=True)
class ReportStage(StageConfig):
    """One self-contained HTML page with tables and plots."""

    reads_data: ClassVar[bool] = False

    title: str = ""

    def reads(self, before: Mapping[str, StageConfig]) -> set[str]:
        return set(before)

    def results(self, folder: Path) -> list[str]:
        return [f"report: {page}" for page in sorted(folder.glob("*.html"))]
