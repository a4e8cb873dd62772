"""Whether a model tells documents apart at all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.stages.check.finished_run import Finding, Run

ROUNDING = 1e-5
"""Relative difference of two scores that arithmetic alone can make, in float32 and in batches of other lengths."""


@dataclass(frozen=True)
class Discriminates:
    """For this share of the queries the model's raw scores differ between documents.

    A model that gives all documents of a query one score has the nDCG of a random order, and none of its own. Queries
    with a single candidate do not count. For a paradigm that gives orders there is `order_sensitivity`.
    """

    stage: str
    at_least: float = 0.8

    def refuse(self, run: Run) -> None:
        run.ranked_by_model(self.stage)

    def __call__(self, run: Run) -> list[Finding]:
        rows = [row for row in run.rows(self.stage, RANKINGS) if len(row["docids"]) > 1]
        if rows and all(row["raw_scores"] is None for row in rows):
            raise LookupError(
                f"{run.paradigm(self.stage).name} gives {self.stage!r} orders and no scores; use order_sensitivity"
            )
        differ = sum(_differ(row["raw_scores"] or {}) for row in rows)
        share = differ / len(rows) if rows else 0.0
        what = f"{self.stage}: scores differ between documents for at least {self.at_least:.0%} of the queries"
        found = f"{share:.0%} ({differ} of {len(rows)})"
        return [Finding(what, bool(rows) and share >= self.at_least, found, is_quality=True)]


def _differ(scores: Mapping[str, float]) -> bool:
    """Whether any two scores differ; those that are no finite number are none."""
    finite = [score for score in scores.values() if math.isfinite(score)]
    return len(finite) > 1 and max(finite) - min(finite) > ROUNDING * max(map(abs, finite))
