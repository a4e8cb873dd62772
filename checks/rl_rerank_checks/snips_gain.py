"""Which ranking is better by clicks that were made on another one."""

from collections.abc import Sequence
from dataclasses import dataclass

from rl_rerank.evaluation.clicks import snips
from rl_rerank.evaluation.clicks.snips import Visit
from rl_rerank.evaluation.enough import too_few
from rl_rerank.io import trec
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank_checks.visits import number


@dataclass(frozen=True)
class SnipsGain:
    """Rerank stages are better than others by SNIPS (`rl_rerank.evaluation.clicks.snips`), which needs no judgment.

    A difference passes if its 95% interval lies above 0. Candidates need the features `clicked` and `propensity`.
    """

    comparisons: Sequence[Sequence[str]]
    """Pairs [better, worse] of rerank stages."""
    propensity: str = "examination"
    """Name of the feature that is the probability that a candidate was examined."""
    floor: float = 0.05
    """Smaller probabilities are taken as this, which bounds the weight of one click."""

    def __post_init__(self) -> None:
        if not self.comparisons or any(len(pair) != 2 for pair in self.comparisons):
            raise ValueError(f"comparisons must be pairs [better, worse]; got {list(map(list, self.comparisons))}")
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor must be above 0 and at most 1; got {self.floor}")

    def refuse(self, run: Run) -> None:
        for better, worse in self.comparisons:
            one, other = run.rerank(better).split, run.rerank(worse).split
            if one != other:
                raise ValueError(f"{better!r} ranks split {one!r}, {worse!r} {other!r}; compare one split")

    def __call__(self, run: Run) -> list[Finding]:
        found: list[Finding] = []
        for better, worse in self.comparisons:
            what = f"{better}: more SNIPS gain than {worse} (95% interval above 0)"
            ours, theirs = self._visits(run, better), self._visits(run, worse)
            if reason := too_few(sum(bool(visit.weights) for visit in ours)):
                found.append(Finding(what, False, reason, is_quality=True))
                continue
            gained = snips.difference(ours, theirs)
            low, high = gained.interval
            said = (
                f"{snips.snips(ours).value:.3f} and {snips.snips(theirs).value:.3f} on {gained.num_visits} visits with "
                f"a click, difference {gained.value:+.3f} [{low:+.3f}, {high:+.3f}]"
            )
            found.append(Finding(what, low > 0, said, is_quality=True))
        return found

    def _visits(self, run: Run, stage: str) -> list[Visit]:
        ranked = trec.read_run(run.file(stage, "run.trec"))
        made: list[Visit] = []
        for qid, example in run.examples(stage).items():
            order = trec.trec_order(ranked.get(qid, {}))
            weights = {
                c.docid: snips.weight(number(example, c, self.propensity), self.floor)
                for c in example.candidates
                if number(example, c, "clicked")
            }
            made.append(Visit(order, weights))
        return made
