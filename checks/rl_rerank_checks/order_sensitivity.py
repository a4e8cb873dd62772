"""Whether a ranking is the model's, or that of the order in which it was shown the documents."""

import statistics
from dataclasses import dataclass

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.evaluation.functions.positions import agreement
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.rerank.spec import RerankStage


@dataclass(frozen=True)
class OrderSensitivity:
    """Two rerank stages that show one model the candidates in different random orders agree in what they return.

    The agreement is Kendall's tau, 0 for a model that returns the order shown, or any other that does not depend on the
    documents. Queries with a single candidate do not count.
    """

    stage: str
    again: str
    k: int | None = None
    """Ranks that the paradigm settles: pairs of documents of which neither ranking has one among its first k do not
    count; null: all count."""
    at_least: float = 0.5

    def refuse(self, run: Run) -> None:
        one, other = (run.ranked_by_model(stage) for stage in (self.stage, self.again))
        for name in ("model", "split"):
            if getattr(one, name) != getattr(other, name):
                found = f"{getattr(one, name)!r} and {getattr(other, name)!r}"
                raise ValueError(f"{self.stage!r} and {self.again!r} need the same {name}; got {found}")
        asked = [stage.paradigm or run.config.paradigm for stage in (one, other)]
        if asked[0] != asked[1]:
            raise ValueError(f"{self.stage!r} and {self.again!r} need the same paradigm; got {' and '.join(asked)}")
        if _shown(one) == _shown(other):
            raise ValueError(
                f"{self.stage!r} and {self.again!r} show the documents in the same order: give them another seed"
            )

    def __call__(self, run: Run) -> list[Finding]:
        one, other = ({r["qid"]: r["docids"] for r in run.rows(s, RANKINGS)} for s in (self.stage, self.again))
        taus = [agreement([one[q], other[q]], self.k) for q in one if q in other and len(one[q]) > 1]
        found = statistics.fmean(taus) if taus else 0.0
        top = "" if self.k is None else f" about the first {self.k}"
        what = f"{self.stage}: two random orders of the same documents give rankings that agree{top}"
        said = f"Kendall's tau is {found:.3f} on average over {len(taus)} queries; at least {self.at_least:g} is asked"
        return [Finding(what, bool(taus) and found >= self.at_least, said, is_quality=True)]


def _shown(stage: RerankStage) -> int | str:
    return stage.seed if stage.shuffle else "reversed" if stage.reverse else "as they came"
