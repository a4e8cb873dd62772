"""The records of an evaluation, from the evaluate stage to tables, report, cards and checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rl_rerank.evaluation.cost import Cost
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.fusion_weight import ChosenWeight
from rl_rerank.evaluation.groups import GroupMeans
from rl_rerank.evaluation.measures import lower_is_better
from rl_rerank.evaluation.protocol import Protocol

FILE = "metrics.json"
SIGNIFICANT = 0.05

PerQuery = Mapping[str, Mapping[str, float]]
"""qid -> measure -> value."""

_OPTIONAL = {"per_query": "what each query's values are", "protocols": "what its rows were made under"}
"""Fields that not every reader needs -> the words for a file that lacks one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the comparison table."""

    label: str
    mean: Mapping[str, float]
    """Measure -> value over all judged queries."""
    interval: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Measure -> its 95% interval; sums have none."""
    num_queries: int = 0
    malformed: float | None = None
    """Share of prompts; None: no model was asked."""
    fallback: float | None = None

    @property
    def too_few(self) -> str:
        """What a page shows instead of its values; empty if it has enough queries."""
        return too_few(self.num_queries)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow(Row):
    """The row of a rerank stage's run.

    Example:
        >>> RunRow(run="trained", label="GRPO", role="system", mean={"nDCG@10": 0.61}, num_queries=50)
    """

    run: str
    role: str = ""
    """`system`, `first_stage`, `untrained` or `fusion`."""
    cost: Cost | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow(Row):
    """The row of an order that the candidates alone give."""

    role: str
    """`first_stage` or `oracle`."""
    num_missing: int
    """Judged queries without a candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsRow(Row):
    """The mean of one system's runs over several seeds."""

    system: str
    runs: Sequence[str]
    num_missing: int
    """Judged queries that at least one run lacks."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test of a system against a baseline; `PairedTest` documents the numbers.

    Example:
        >>> Comparison("trained", "first", "nDCG@10", 0.04, (0.01, 0.07), 0.008, 0.007, p_value_holm=0.016)
    """

    system: str
    baseline: str
    measure: str
    difference: float
    interval: Sequence[float]
    p_value: float
    p_value_t: float
    p_value_holm: float
    """`p_value` adjusted for all tests of the table."""

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted randomisation test rejects "no difference" at 5%."""
        return self.p_value_holm < SIGNIFICANT

    @property
    def is_gain(self) -> bool:
        """Whether the difference is for the better, which is down for some measures."""
        return (self.difference > 0) != lower_is_better(self.measure)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds:
    """Systems that were trained with several seeds, and their tests."""

    rows: Sequence[SeedsRow] = ()
    comparisons: Sequence[Comparison] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatShare:
    """Well-formed answers of one model in one paradigm."""

    prompts: int
    well_formed: int
    statuses: Mapping[str, int] = field(default_factory=dict)
    samples: Sequence[str] = ()

    @property
    def share(self) -> float | None:
        """Of all prompts; None without prompts."""
        return self.well_formed / self.prompts if self.prompts else None


@dataclass(frozen=True, slots=True)
class RewardTrend:
    """The mean reward of a training's first and last third of steps."""

    reward_first_third: float
    reward_last_third: float
    p_value: float
    """One-sided: the reward rises."""
    steps: int
    control: bool
    """Whether rewards were permuted within groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Everything that an evaluate stage writes to `metrics.json`.

    Example:
        >>> Metrics.read(Path("runs/demo/evaluate/metrics.json")).rows[0].mean["nDCG@10"]
    """

    provider: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> version of the software that computed the values."""
    measures: Sequence[str]
    """Tests and plots use the first one."""
    rows: Sequence[RunRow]
    references: Sequence[ReferenceRow] = ()
    per_query: Mapping[str, PerQuery] = field(default_factory=dict)
    """Run -> values of each judged query."""
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Run -> judged queries that it lacks."""
    protocols: Mapping[str, Protocol | None] = field(default_factory=dict)
    """Run -> its protocol; None: not recorded."""
    forced: Sequence[str] = ()
    """One sentence for each pair that was compared under different protocols."""
    comparisons: Sequence[Comparison] = ()
    over_seeds: OverSeeds = OverSeeds()
    format: Mapping[str, Mapping[str, FormatShare]] = field(default_factory=dict)
    """Run -> paradigm -> its share of well-formed answers."""
    training: Mapping[str, RewardTrend] = field(default_factory=dict)
    """Training stage -> its reward."""
    weights: Mapping[str, ChosenWeight] = field(default_factory=dict)
    """Run -> the weight of its fusion, where it was chosen on development queries."""
    groups: Sequence[GroupMeans] = ()
    """Each row's means by group, in table order, where queries have groups."""

    @property
    def labels(self) -> dict[str, str]:
        """Run -> label of its row."""
        return {row.run: row.label for row in self.rows}

    @property
    def num_queries(self) -> int:
        """Number of queries, the most of any row."""
        return max(row.num_queries for row in self.rows)

    @property
    def table_rows(self) -> list[tuple[Row, int]]:
        """All rows in table order, each with its number of missing queries."""
        rows: list[tuple[Row, int]] = [(row, len(self.missing.get(row.run, ()))) for row in self.rows]
        return rows + [(row, row.num_missing) for row in (*self.over_seeds.rows, *self.references)]

    @property
    def spent(self) -> list[tuple[RunRow, Cost]]:
        """The rows with a known cost."""
        return [(row, row.cost) for row in self.rows if row.cost and row.num_queries]

    @property
    def tests(self) -> list[tuple[Comparison, Row, Row]]:
        """All comparisons, each with the rows of its system and its baseline."""
        rows: Mapping[str, Row] = {row.run: row for row in self.rows} | {
            row.system: row for row in self.over_seeds.rows
        }
        return [(c, rows[c.system], rows[c.baseline]) for c in (*self.comparisons, *self.over_seeds.comparisons)]

    def change(self, pair: tuple[str, str]) -> dict[str, tuple[float, float]]:
        """`paired` values of the first measure, for a pair (system, baseline)."""
        system, baseline = (self.per_query[run] for run in pair)
        return paired(baseline, system, self.measures[0])

    def to_json(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        content = asdict(self)
        # Files of runs that have neither stay what they are.
        if not self.weights:
            del content["weights"]
        if not self.groups:
            del content["groups"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Metrics:
        """The inverse of `to_json`.

        Raises:
            AttributeError, KeyError, TypeError: for another layout.
        """
        over = content.get("over_seeds", {})
        typed = {
            "rows": [RunRow(**row | {"cost": (cost := row.get("cost")) and Cost(**cost)}) for row in content["rows"]],
            "references": [ReferenceRow(**row) for row in content.get("references", ())],
            "protocols": {run: p and Protocol(**p) for run, p in content.get("protocols", {}).items()},
            "comparisons": [Comparison(**test) for test in content.get("comparisons", ())],
            "over_seeds": OverSeeds(
                rows=[SeedsRow(**row) for row in over.get("rows", ())],
                comparisons=[Comparison(**test) for test in over.get("comparisons", ())],
            ),
            "format": {run: formats(found) for run, found in content.get("format", {}).items()},
            "training": {stage: RewardTrend(**found) for stage, found in content.get("training", {}).items()},
            "weights": {run: ChosenWeight(**found) for run, found in content.get("weights", {}).items()},
            "groups": [GroupMeans(**found) for found in content.get("groups", ())],
        }
        return cls(**{**content, **typed})

    @classmethod
    def read(cls, path: Path, *needed: str) -> Metrics:
        """The metrics in an evaluate stage's file.

        Args:
            needed: fields that must be in the file, beside `measures` and `rows`.

        Raises:
            ValueError: for a file that has another layout or lacks something.
        """
        again = f"run the stage {path.parent.name!r} again"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            metrics = cls.from_json(content)
        except json.JSONDecodeError as e:
            raise ValueError(f"{path} is not JSON ({e.msg}); {again}") from None
        except (AttributeError, KeyError, TypeError) as e:
            raise ValueError(f"{path} does not have the layout of an evaluation ({e}); {again}") from None
        if lacking := [_OPTIONAL[name] for name in needed if name not in content]:
            raise ValueError(f"{path} does not say {lacking[0]}; {again}")
        return metrics


def formats(content: Mapping[str, Any]) -> dict[str, FormatShare]:
    """The content of a rerank stage's `format.json`, by paradigm."""
    return {paradigm: FormatShare(**found) for paradigm, found in content.items()}


def paired(before: PerQuery, after: PerQuery, measure: str) -> dict[str, tuple[float, float]]:
    """qid -> (before, after), for the queries in both."""
    return {qid: (before[qid][measure], after[qid][measure]) for qid in before if qid in after}
