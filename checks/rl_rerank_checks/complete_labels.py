"""FullRank's mechanism: labels for whole lists, down to the last place."""

import random
import statistics
from dataclasses import dataclass, replace

from rl_rerank.data.examples import ExampleFile
from rl_rerank.engines.oracle import Oracle
from rl_rerank.evaluation.functions.positions import agreement
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.ranking.driver import rerank
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.types import Candidate, RankingExample

PERFECT = 1 - 1e-9
"""A Kendall tau of 1, but for rounding."""


@dataclass(frozen=True)
class CompleteLabels:
    """A synth stage orders every candidate, and its passes would give a perfect teacher's order.

    The latter is simulated on lists as long as the longest: a teacher that never errs, asked in the paradigm's passes,
    has a Kendall tau of 1 to the truth, and a single pass has less wherever the list is longer than a window.
    """

    stage: str
    paradigm: str = "settled"
    """The teacher's, with settle=true."""
    lists: int = 50
    """Simulated lists, in random order."""

    def refuse(self, run: Run) -> None:
        _settling(run, self.paradigm)

    def __call__(self, run: Run) -> list[Finding]:
        passes = _settling(run, self.paradigm)
        examples = list(ExampleFile(run.file(self.stage, "examples.jsonl")))
        complete = sum(sorted(example.order or ()) == sorted(example.docids) for example in examples)
        n = max((len(example.docids) for example in examples), default=0)
        found = [
            Finding(
                f"{self.stage}: every gold order is a permutation of all candidates",
                bool(examples) and complete == len(examples),
                f"{complete} of {len(examples)}, up to {n} documents",
            )
        ]
        if n < 2:
            return found
        settled, prompts = self._simulated(passes, n)
        once, _ = self._simulated(replace(passes, settle=False), n)
        assert passes.window is not None
        holds = settled > PERFECT and (once < PERFECT or n <= passes.window)
        said = f"tau {settled:.3f} from {prompts} prompts, {once:.3f} from one pass, {n} documents in random order"
        return [*found, Finding(f"{self.paradigm}: passes give a perfect teacher's whole order", holds, said)]

    def _simulated(self, paradigm: Listwise, n: int) -> tuple[float, int]:
        """The mean tau to the truth, and the prompts of a list."""
        examples = [_example(n, number) for number in range(self.lists)]
        rankings, _ = rerank(examples, paradigm, Oracle(examples, paradigm.target))
        truth = [str(i) for i in reversed(range(n))]
        taus = [agreement([ranking.docids, truth]) for ranking in rankings]
        return statistics.fmean(taus), rankings[0].num_prompts


def _settling(run: Run, name: str) -> Listwise:
    paradigm = run.built(name)
    if not isinstance(paradigm, Listwise) or not paradigm.settle:
        raise LookupError(f"the paradigm {name!r} is not listwise with settle=true, so its labels end below the top")
    return paradigm


def _example(n: int, number: int) -> RankingExample:
    docids = [str(i) for i in range(n)]
    random.Random(number).shuffle(docids)
    candidates = tuple(Candidate(docid, docid, rank=rank) for rank, docid in enumerate(docids, start=1))
    return RankingExample(f"list {number}", f"list {number}", candidates, {docid: int(docid) for docid in docids})
