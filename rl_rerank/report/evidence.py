"""The evidence of a report: measured systems, and the folders of their files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rl_rerank.config import Config
from rl_rerank.data.store import Store
from rl_rerank.evaluation.records import Comparison, Metrics


@dataclass(frozen=True, slots=True)
class LostQuery:
    """A query that a system ranks worse than before."""

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
    """The run in which it was better."""
    measures: Mapping[str, Comparison]
    """Measure -> its test, significant ones only."""
    lost: tuple[LostQuery, ...]
    """The largest losses on the first of the measures, largest first."""

    @property
    def measure(self) -> str:
        """The measure of `lost`."""
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
    """The system and the baseline that the query section compares."""
    shown: Mapping[str, str]
    """The systems in the query section -> the names of their columns."""
    regressions: tuple[Regression, ...] = ()
    by_measure: Mapping[str, tuple[Comparison, ...]] = field(default_factory=dict)
    """Over several runs: a system against its counterpart -> the test on each measure."""
    untested: tuple[str, ...] = ()
    """Over several runs: one sentence for each system with too few queries to be compared."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Lines of the page's provenance."""


def trainings(config: Config) -> dict[str, Path]:
    """The training stages that have logged something, with their folders."""
    found = {n: Path(config.run_dir) / n for n, s in config.stages.items() if s.is_launched}
    return {name: folder for name, folder in found.items() if (folder / "metrics.jsonl").is_file()}
