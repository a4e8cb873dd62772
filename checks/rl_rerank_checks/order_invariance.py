"""Pairwise ranking prompting's mechanism: how much quality depends on the initial order."""

import itertools
import statistics
from dataclasses import dataclass, replace

from rl_rerank.evaluation.measures import evaluate, parse
from rl_rerank.io import trec
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class OrderInvariance:
    """Rerank stages that differ only in the order in which they show the candidates have the same mean measure.

    Comparing all pairs should not depend on that order, and sorting in few passes has to. If it should and does not,
    look at the ties: a comparison whose outcome changes with the order of its two documents leaves these as shown.
    """

    stages: tuple[str, ...]
    measure: str = "nDCG@10"
    within: float = 0.005
    """Difference of the highest and the lowest mean."""
    invariant: bool = True
    """Whether the difference should be at most `within`, or more."""

    def refuse(self, run: Run) -> None:
        if len(self.stages) < 2:
            raise ValueError(f"needs two rerank stages or more to compare; got {list(self.stages)}")
        parse(self.measure)
        asked = [run.ranked_by_model(stage) for stage in self.stages]
        for (a, one), (b, other) in itertools.combinations(zip(self.stages, asked, strict=True), 2):
            shown = [(s.seed if s.shuffle else None, s.reverse) for s in (one, other)]
            if shown[0] == shown[1]:
                raise ValueError(f"{a!r} and {b!r} show the documents in the same order: give them different ones")
            alike = replace(other, shuffle=one.shuffle, reverse=one.reverse, seed=one.seed, label=one.label)
            if alike != one:
                raise ValueError(f"{a!r} and {b!r} differ in more than the order in which they show the documents")

    def __call__(self, run: Run) -> list[Finding]:
        means = {stage: self._mean(run, stage) for stage in self.stages}
        apart = max(means.values()) - min(means.values())
        holds = apart <= self.within if self.invariant else apart > self.within
        what = (
            f"{' and '.join(self.stages)}: mean {self.measure} differs by "
            f"{'at most' if self.invariant else 'more than'} {self.within:g} between initial orders"
        )
        said = ", ".join(f"{stage} {mean:.4f}" for stage, mean in means.items())
        return [Finding(what, holds, f"{said}: {apart:.4f} apart")]

    def _mean(self, run: Run, stage: str) -> float:
        qrels = run.store.qrels(run.rerank(stage).split)
        found = evaluate(trec.read_run(run.file(stage, "run.trec")), qrels, [self.measure])
        return statistics.fmean(values[self.measure] for values in found.per_query.values())
