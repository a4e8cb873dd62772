"""FIRST's feedback: the retriever's query vectors learn the reranker's order, and the search finds more."""

import statistics
from dataclasses import dataclass

from rl_rerank.evaluation.measures import parse
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.rerank.feedback import FILE
from rl_rerank_checks import held_out


@dataclass(frozen=True)
class RelevanceFeedback:
    """A stage's new query vectors fit the order that they learned better than the retriever's, for every query with two
    documents or more; and the search with them is better than the retriever's by a paired test."""

    stage: str
    """A rerank stage with `feedback`."""
    before: str
    """The rerank stage of the first stage."""
    measure: str = "R@100"

    def refuse(self, run: Run) -> None:
        found = run.rerank(self.stage)
        if found.feedback is None:
            raise ValueError(f"the rerank stage {self.stage!r} gives no feedback to a retriever")
        if run.rerank(self.before).role != "first_stage":
            raise ValueError(f"before={self.before!r} is not the first stage, whose search is compared")
        parse(self.measure)
        if (split := found.split) != (own := run.rerank(self.before).split):
            raise ValueError(f"{self.before!r} ranks split {own!r}, {self.stage!r} {split!r}; compare one split")

    def __call__(self, run: Run) -> list[Finding]:
        rows = [row for row in run.rows(self.stage, FILE) if row["documents"] > 1]
        learned = sum(row["loss_after"] < row["loss_before"] for row in rows)
        taus = [statistics.fmean(row[f"tau_{when}"] for row in rows) if rows else 0.0 for when in ("before", "after")]
        found = f"{learned} of {len(rows)} queries; mean Kendall's tau {taus[0]:.3f} before and {taus[1]:.3f} after"
        what = f"{self.stage}: new query vectors fit the order better than the retriever's"
        better = f"{self.stage}: more {self.measure} than {self.before} on the same held-out queries (p < .05)"
        return [
            Finding(what, bool(rows) and learned == len(rows), found),
            held_out.better(run, better, (self.before, self.stage), self.measure),
        ]
