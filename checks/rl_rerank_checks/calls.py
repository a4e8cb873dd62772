"""Rank-R1's mechanism: what a sort costs in calls."""

import random
import statistics
from dataclasses import dataclass

from rl_rerank.engines.oracle import Oracle
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.ranking.driver import rerank
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.types import Candidate, RankingExample

CONTRADICTIONS = 10.0
"""Standard deviation of the errors with which the simulated model contradicts itself, in ranks."""


@dataclass(frozen=True)
class Calls:
    """Every query has as many prompts as the stage's paradigm asks a simulated model on lists of that length.

    The range is that over random orders, half of them asked of a perfect comparator and half of one that contradicts
    itself.
    """

    stage: str
    orders: int = 200
    """Simulated lists of each length."""

    def __call__(self, run: Run) -> list[Finding]:
        paradigm, examples = run.paradigm(self.stage), run.examples(self.stage)
        counts = {qid: len(rows) for qid, rows in run.asked(self.stage).items()}
        lengths = {qid: len(examples[qid].docids) for qid in counts}
        simulated = {n: self._simulated(paradigm, n) for n in set(lengths.values())}
        inside = sum(min(simulated[lengths[q]]) <= count <= max(simulated[lengths[q]]) for q, count in counts.items())
        longest = max(simulated)
        calls = simulated[longest]
        usual = f"{min(calls)} to {max(calls)}, {statistics.fmean(calls):.1f} on average"
        return [
            Finding(
                f"{self.stage}: as many calls a query as {paradigm.name} makes to a simulated model",
                inside == len(counts),
                f"{statistics.fmean(counts.values()):.1f} on average, {inside} of {len(counts)} queries in the range; "
                f"for {longest} documents that is {usual}",
            )
        ]

    def _simulated(self, paradigm: Paradigm, n: int) -> list[int]:
        examples = [_example(n, number) for number in range(self.orders)]
        half = len(examples) // 2
        found = []
        for part, noise in ((examples[:half], 0.0), (examples[half:], CONTRADICTIONS)):
            rankings, _ = rerank(part, paradigm, Oracle(part, paradigm.target, noise=noise, fresh=noise > 0))
            found += [ranking.num_prompts for ranking in rankings]
        return found


def _example(n: int, number: int) -> RankingExample:
    """`n` documents of different grades in random order."""
    docids = [str(i) for i in range(n)]
    random.Random(number).shuffle(docids)
    candidates = tuple(Candidate(docid, docid, rank=rank) for rank, docid in enumerate(docids, start=1))
    grades = {docid: int(docid) for docid in docids}
    return RankingExample(f"list {number}", f"list {number}", candidates, grades)
