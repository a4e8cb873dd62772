"""Multi-stage ranking's mechanism: each stage ranks the top of the last one, better and at a higher cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from rl_rerank.evaluation.answers import RANKINGS
from rl_rerank.evaluation.cost import read_cost
from rl_rerank.evaluation.measures import parse
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank_checks import held_out


@dataclass(frozen=True)
class Cascade:
    """Along rerank stages, each with the last one's order as candidates, the measure rises, and so does the time.

    What a stage does not rank again follows in the order of the last one. A rise is one by a paired test over queries
    (p < .05).
    """

    stages: Sequence[str]
    """From the first stage on; the first two need not name each other if the first is model=first_stage."""
    measure: str = "RR@10"

    def refuse(self, run: Run) -> None:
        if len(self.stages) < 2:
            raise ValueError(f"stages must name two rerank stages or more; got {list(self.stages)}")
        parse(self.measure)
        found = [run.rerank(stage) for stage in self.stages]
        for name, before, after in zip(self.stages, found, found[1:], strict=False):
            follows = after.candidates == name or (not after.candidates and before.model == "first_stage")
            if not follows or before.split != after.split:
                raise ValueError(f"{name!r} is followed by a stage that does not rank its order again")

    def __call__(self, run: Run) -> list[Finding]:
        found: list[Finding] = []
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            what = f"{after}: more {self.measure} than {before} on the same queries (p < .05)"
            found.append(held_out.better(run, what, (before, after), self.measure))
            found += [self._kept(run, before, after), self._slower(run, before, after)]
        return found

    def _kept(self, run: Run, before: str, after: str) -> Finding:
        depth = run.rerank(after).depth
        first, last = ({row["qid"]: row["docids"] for row in run.rows(stage, RANKINGS)} for stage in (before, after))
        top = "documents" if depth is None else f"first {depth}"
        same = sum(q in first and _continues(first[q], docids, depth) for q, docids in last.items())
        what = f"{after}: the {top} of {before} are ranked again, and the others stay"
        return Finding(what, bool(last) and same == len(last), f"{same} of {len(last)} queries")

    def _slower(self, run: Run, before: str, after: str) -> Finding:
        costs = [read_cost(run.file(stage, "summary.json")).seconds for stage in (before, after)]
        queries = len(run.rows(after, RANKINGS))
        each = [1000 * seconds / max(queries, 1) for seconds in costs]
        what = f"{after}: takes more time than {before}, whose time it includes"
        return Finding(what, each[1] > each[0], f"{each[0]:.1f} and {each[1]:.1f} ms a query")


def _continues(before: Sequence[str], after: Sequence[str], depth: int | None) -> bool:
    """Whether a ranking has the first `depth` documents of another one on top, in any order, and then the rest."""
    places = slice(None, depth)
    rest = slice(len(before[places]), None)
    return sorted(before[places]) == sorted(after[places]) and before[rest] == after[rest]
