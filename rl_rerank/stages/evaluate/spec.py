"""Measuring runs: the stage's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.config import Reference, StageConfig
from rl_rerank.evaluation.measures import parse

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class EvaluateStage(StageConfig):
    """Measure runs."""

    leaves: ClassVar[str] = "measures"

    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "AP"])
    runs: list[str] = field(default_factory=list)
    """Names of rerank stages, in table order; empty: all before this stage. The first stage and the untrained model
    follow in any case, where they have been ranked."""
    comparisons: list[list[str]] = field(default_factory=list)
    """Pairs [system, baseline] to be tested on the first measure: names of rerank stages, or of `seeds`."""
    seeds: dict[str, list[str]] = field(default_factory=dict)
    """A name -> the rerank stages of one system that was trained with several seeds. It gets a row with the mean over
    them, an interval over queries and seeds, and can be compared."""
    force: bool = False
    """Also test pairs that were made under different protocols; the table then says so."""

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        for run in self.runs or [name for name, stage in before.items() if stage.leaves == "a run"]:
            yield Reference("runs", run, "a run")
        for system, runs in self.seeds.items():
            for run in runs:
                yield Reference(f"seeds.{system}", run, "a run")
        for run in (run for pair in self.comparisons for run in pair if run not in self.seeds):
            yield Reference("comparisons", run, "a run")

    def reads(self, before: Mapping[str, StageConfig]) -> set[str]:
        """Beside the runs that it names, the baselines' and the training records of rewards."""
        beside = {name for name, stage in before.items() if stage.is_baseline or stage.logs_rewards}
        named = {r.stage for r in self.references(before) if r.setting != "comparisons"}
        return named | beside

    def check(self, name: str, plugins: Plugins) -> None:
        for measure in self.measures:
            parse(measure)
        for pair in self.comparisons:
            if len(pair) != 2:
                raise ValueError(f"stages.{name}.comparisons: a comparison is a pair [system, baseline]; got {pair}")

    def results(self, folder: Path) -> list[str]:
        path = folder / "table.md"
        return [path.read_text(encoding="utf-8")] if path.is_file() else []
