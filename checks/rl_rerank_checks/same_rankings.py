"""duoBERT's mechanism: a sum over both orders of each pair does not depend on the order shown, a sum over one does."""

from dataclasses import dataclass, replace

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class SameRankings:
    """Two rerank stages that differ in the order in which they show documents give the same ranking of a query."""

    stage: str
    again: str
    same: bool = True
    """Whether they should, in `at_least` of the queries; or not, in fewer than `at_least` of them."""
    at_least: float = 0.98
    """Arithmetic in batches of other lengths can turn two documents round whose scores are nearly equal."""

    def refuse(self, run: Run) -> None:
        one, other = (run.ranked_by_model(stage) for stage in (self.stage, self.again))
        if (one.shuffle, one.seed) == (other.shuffle, other.seed):
            raise ValueError(
                f"{self.stage!r} and {self.again!r} show the documents in the same order: give them another seed"
            )
        if replace(other, shuffle=one.shuffle, seed=one.seed, label=one.label) != one:
            raise ValueError(f"{self.stage!r} and {self.again!r} differ in more than the order shown")

    def __call__(self, run: Run) -> list[Finding]:
        one, other = ({r["qid"]: r["docids"] for r in run.rows(s, RANKINGS)} for s in (self.stage, self.again))
        equal = sum(one[qid] == other.get(qid) for qid in one)
        share = equal / len(one) if one else 0.0
        holds = share >= self.at_least if self.same else share < self.at_least
        extent = "at least" if self.same else "fewer than"
        what = f"{self.stage}: another order of the documents gives the same ranking of {extent} {self.at_least:.0%}"
        return [Finding(what, bool(one) and holds, f"{equal} of {len(one)} queries")]
