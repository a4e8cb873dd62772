"""Pairwise ranking prompting's mechanism: what a ranking costs, and both orders of every comparison."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rl_rerank.paradigms.pairwise import Pairwise
from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class Comparisons:
    """A pairwise stage asks as many prompts a query as its method should, and about every pair in both orders.

    For N documents: allpairs N (N - 1); sliding 2 times the sum over p < k of N - 1 - p; heapsort at most
    4 (N + (k - 1) floor(log2 N)) and at least 2 (N - 1), because no document can be ranked without a comparison.
    """

    stage: str

    def refuse(self, run: Run) -> None:
        _pairwise(run, self.stage)

    def __call__(self, run: Run) -> list[Finding]:
        paradigm, examples, asked = _pairwise(run, self.stage), run.examples(self.stage), run.asked(self.stage)
        limits = {qid: _prompts(paradigm, len(examples[qid].docids)) for qid in examples}
        counts = {qid: len(asked.get(qid, ())) for qid in examples}
        right = sum(low <= counts[qid] <= high for qid, (low, high) in limits.items())
        lows, highs = zip(*limits.values(), strict=True)
        low, high, mean = min(lows), max(highs), statistics.fmean(counts.values())
        allowed = f"{low}" if low == high else f"{low} to {high}"
        both = sum(_has_both_orders(rows) for rows in asked.values())
        return [
            Finding(
                f"{self.stage}: as many prompts a query as {paradigm.method} takes by its formula",
                right == len(counts),
                f"{mean:.1f} on average, {right} of {len(counts)} queries; {allowed} by the formula",
            ),
            Finding(
                f"{self.stage}: every pair is shown in both orders, equally often",
                both == len(asked),
                f"{both} of {len(asked)} queries",
            ),
        ]


def _pairwise(run: Run, stage: str) -> Pairwise:
    paradigm = run.paradigm(stage)
    if not isinstance(paradigm, Pairwise):
        raise LookupError(f"stage {stage!r} asks with {paradigm.name}, which compares no pairs")
    return paradigm


def _prompts(paradigm: Pairwise, n: int) -> tuple[int, int]:
    """The fewest and the most prompts about `n` documents."""
    k = n if paradigm.k is None else min(paradigm.k, n)
    if n < 2:
        return 0, 0
    if paradigm.method == "allpairs":
        return n * (n - 1), n * (n - 1)
    if paradigm.method == "sliding":
        passes = 2 * sum(n - 1 - p for p in range(min(k, n - 1)))
        return passes, passes
    return 2 * (n - 1), 4 * (n + (k - 1) * (n.bit_length() - 1))


def _has_both_orders(rows: Sequence[dict[str, Any]]) -> bool:
    shown = Counter(tuple(row["docids"]) for row in rows)
    return all(shown[b, a] == count for (a, b), count in shown.items())
