"""What a report is made of: measured systems, and where their files lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_rerank.config import Config
from rl_rerank.data.store import Store

if TYPE_CHECKING:
    pass

Metrics = Mapping[str, Any]
"""What an evaluate stage wrote to `metrics.json`."""


@dataclass(frozen=True, slots=True)
class LostQuery:
    """A query that a system ranks worse than it did."""

    qid: str
    query: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Regression:
    """One system that is significantly worse in one run than in another."""

    system: str
    run: str
    baseline: str
    """The run that it was better in."""
    measures: Mapping[str, Mapping[str, Any]]
    """Measure -> its test, significant ones only."""
    lost: tuple[LostQuery, ...]
    """The largest losses on the first of the measures, largest first."""

    @property
    def measure(self) -> str:
        """What `lost` is told in."""
        return next(iter(self.measures))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that a report reads. A system is named by its rerank stage, over several runs by RUN/STAGE."""

    metrics: Metrics
    folders: Mapping[str, Path]
    """System -> its rerank stage's folder."""
    trainings: Mapping[str, Mapping[str, Path]]
    """Training stage -> run -> its folder; the run is empty where there is only one."""
    store: Store
    pair: tuple[str, str] | None
    """The system and the baseline that single queries are shown of."""
    shown: Mapping[str, str]
    """The systems whose ranks are shown of single queries -> the names of their columns."""
    regressions: tuple[Regression, ...] = ()
    by_measure: tuple[Mapping[str, Any], ...] = ()
    """Over several runs: every system's test against its counterpart on every measure, with a `label`."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Lines of the page's provenance."""


def trainings(config: Config) -> dict[str, Path]:
    """The training stages that have logged something, with their folders."""
    found = {n: Path(config.run_dir) / n for n, s in config.stages.items() if s.is_launched}
    return {name: folder for name, folder in found.items() if (folder / "metrics.jsonl").is_file()}
