"""Whether a system ranks as well as another one, but for a small loss."""

import statistics
from dataclasses import dataclass

from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.measures import lower_is_better
from rl_rerank.evaluation.statistics import bootstrap_interval
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank_checks import held_out


@dataclass(frozen=True)
class NotWorse:
    """The mean difference to another rerank stage is above `-by`, at its one-sided 95% bound over resampled queries.

    That no difference is found proves nothing on few queries; this bound does.
    """

    stage: str
    other: str
    measure: str = "nDCG@10"
    by: float = 0.01

    def __post_init__(self) -> None:
        if not self.by >= 0:
            raise ValueError(f"by must be at least 0; got {self.by}")

    def refuse(self, run: Run) -> None:
        if self.measure == held_out.REWARD or lower_is_better(self.measure):
            raise ValueError(f"measure must be one whose higher values are better, such as nDCG@10; got {self.measure}")
        held_out.refuse(run, (self.other, self.stage), self.measure)

    def __call__(self, run: Run) -> list[Finding]:
        what = f"{self.stage}: {self.measure} at most {self.by:g} below that of {self.other} (one-sided 95% bound)"
        ours, theirs = (held_out.measured(run, stage, self.measure) for stage in (self.stage, self.other))
        qids = [qid for qid in ours if qid in theirs]
        if reason := too_few(len(qids)):
            return [Finding(what, False, reason, is_quality=True)]
        first, last = [theirs[qid] for qid in qids], [ours[qid] for qid in qids]
        differences = [b - a for a, b in zip(first, last, strict=True)]
        # The lower end of the two-sided 90% interval.
        low, _ = bootstrap_interval(differences, run.config.seed, level=0.9)
        said = f"{statistics.fmean(last):.3f} and {statistics.fmean(first):.3f} on {len(qids)} queries"
        said += f", difference {statistics.fmean(differences):+.3f}, above {low:+.3f}"
        return [Finding(what, low > -self.by, said, is_quality=True)]
