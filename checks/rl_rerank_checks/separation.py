"""ProRank's mechanism: after its second stage the score separates relevant documents from others."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.evaluation.statistics import paired_test
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class Separation:
    """The share of pairs (relevant, other) of a query that the raw scores order, before a stage and after it."""

    before: str
    after: str

    def __call__(self, run: Run) -> list[Finding]:
        judged = run.store.qrels(run.rerank(self.after).split)
        before, after = (
            {row["qid"]: share for row in run.rows(stage, RANKINGS) if (share := _ordered(row, judged)) is not None}
            for stage in (self.before, self.after)
        )
        pairs = [(before[q], after[q]) for q in after if q in before]
        if not pairs:
            raise LookupError(f"{self.before} and {self.after} share no query with a relevant and another document")
        first, last = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        tested = paired_test(last, first, run.config.seed)
        return [
            Finding(
                f"{self.after}: scores separate relevant documents better than in {self.before} (p < .05)",
                tested.difference > 0 and tested.p_value < 0.05,
                f"{statistics.fmean(first):.3f} to {statistics.fmean(last):.3f} of the pairs of {len(pairs)} queries, "
                f"p = {tested.p_value:.3g}",
                is_quality=True,
            )
        ]


def _ordered(row: Mapping[str, Any], judged: Mapping[str, Mapping[str, int]]) -> float | None:
    """The area under the ROC curve of one query, ties counting half; None without both kinds of documents."""
    scores, grades = row["raw_scores"] or {}, judged.get(row["qid"], {})
    relevant = [score for docid, score in scores.items() if grades.get(docid, 0) > 0]
    others = [score for docid, score in scores.items() if grades.get(docid, 0) <= 0]
    if not relevant or not others:
        return None
    return statistics.fmean((a > b) + (a == b) / 2 for a in relevant for b in others)
