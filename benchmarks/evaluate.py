# ruff: noqa: T201 (a script whose output is its figures)
"""What an evaluation with intervals costs, as a multiple of what ir_measures alone takes.

    python benchmarks/evaluate.py [REPEATS]

A made-up run of 7,000 queries with 100 documents each, scores distinct, and 20 judgments a query. In turn, REPEATS
times: ir_measures by itself on the same measures, and our evaluation with a 95% bootstrap interval of every mean. Exits
with 1 if the ratio of medians is above 3 or a mean differs.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ir_measures

from rl_rerank.evaluation.measures import Qrels, Run, evaluate
from rl_rerank.evaluation.statistics import bootstrap_intervals

QUERIES, DEPTH, JUDGED = 7_000, 100, 20
MEASURES = ("nDCG@10", "RR@10", "AP")
LIMIT = 3.0

T = TypeVar("T")


def made_up() -> tuple[Run, Qrels]:
    """A run and its qrels."""
    rng = random.Random(1)
    run = {f"q{q}": {f"d{rng.randrange(10**7)}": rng.random() for _ in range(DEPTH)} for q in range(QUERIES)}
    qrels = {q: {d: rng.choice((0, 0, 0, 1, 2)) for d in rng.sample(list(run[q]), JUDGED)} for q in run}
    return run, qrels


def alone(run: Run, qrels: Qrels) -> dict[str, float]:
    """Measure -> mean, and every query's value, by ir_measures."""
    measures = {ir_measures.parse_measure(text): text for text in MEASURES}
    means: Any = ir_measures.calc(measures, qrels, run)[0]
    return {text: means[measure] for measure, text in measures.items()}


def ours(run: Run, qrels: Qrels) -> dict[str, float]:
    """Measure -> mean, every query's value, and intervals."""
    result = evaluate(run, qrels, MEASURES)
    rows = result.per_query.values()
    intervals = bootstrap_intervals([[row[m] for row in rows] for m in MEASURES], seed=1)
    assert all(low < result.mean[m] < high for m, (low, high) in zip(MEASURES, intervals, strict=True))
    return result.mean


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what `call` returned."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def main() -> int:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    run, qrels = made_up()
    seconds: dict[str, list[float]] = {"ir_measures": [], "ours": []}
    differs = False
    for _ in range(repeats):
        spent, theirs = timed(lambda: alone(run, qrels))
        seconds["ir_measures"].append(spent)
        spent, mean = timed(lambda: ours(run, qrels))
        seconds["ours"].append(spent)
        differs |= any(abs(mean[m] - theirs[m]) > 1e-9 for m in MEASURES)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["ours"] / medians["ir_measures"]
    single = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds["ir_measures"], strict=True)]
    print(
        f"{QUERIES} queries x {DEPTH} documents, {len(MEASURES)} measures, {repeats} times in turn: ratio of medians "
        f"{ratio:.2f} (single ones {min(single):.2f} to {max(single):.2f}), means {'DIFFER' if differs else 'equal'}"
    )
    return 1 if ratio > LIMIT or differs else 0


if __name__ == "__main__":
    sys.exit(main())
