# ruff: noqa: T201 (a script whose output is its table)
"""Check intervals and tests where the truth is known, by simulation: writes a table in docs/evaluation.md.

    python benchmarks/simulate_statistics.py

A query's value is 0 with probability 1/5, else Beta(1.2, 1), as skewed and bounded as nDCG@10 is; the difference of two
equal systems is that of two such values which share 60% of their queries' difficulty. Runs of one system with different
seeds add a normal effect of the seed and one of seed and query. Prints one row a check and exits with 1 if one is out
of its bounds. It takes some minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl_rerank.evaluation.seeds import interval_over_seeds, paired_test_over_seeds
from rl_rerank.evaluation.statistics import Floats, PairedTest, bootstrap_interval, holm, paired_test

DOCS = Path(__file__).parent.parent / "docs/evaluation.md"
BEGIN, END = "<!-- simulation: begin -->", "<!-- simulation: end -->"
SIMULATIONS = 4000
DRAWS = 1000
"""Resamples of each interval and test."""
ALPHA = 0.05


@dataclass(frozen=True)
class Check:
    """A rate and the bounds it has to keep."""

    what: str
    rate: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the rate keeps its bounds."""
        return self.low <= self.rate <= self.high


def values(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """Values of queries like those of nDCG@10; their mean is `TRUTH`."""
    return np.where(rng.random(size) < 0.2, 0.0, rng.beta(1.2, 1.0, size))


TRUTH = 0.8 * 1.2 / 2.2


def systems(rng: np.random.Generator, count: int, num_queries: int) -> Floats:
    """Values of `count` equally good systems on the same queries: [systems, queries]."""
    shared = rng.random((1, num_queries)) < 0.6
    return np.where(shared, values(rng, (1, num_queries)), values(rng, (count, num_queries)))


def runs(rng: np.random.Generator, queries: Floats, num_seeds: int, seed_effect: float) -> list[list[float]]:
    """Runs of one system: each seed shifts all its values, and every single one a little."""
    shape = (num_seeds, len(queries))
    shift = rng.normal(0, seed_effect, (num_seeds, 1)) + rng.normal(0, 0.15, shape)
    return (queries + shift).tolist()


def covers(interval: tuple[float, float], truth: float = TRUTH) -> bool:
    """Whether the truth lies inside."""
    return interval[0] <= truth <= interval[1]


def rate(hit: Callable[[np.random.Generator, int], bool]) -> float:
    """Share of simulations in which `hit` holds."""
    rng = np.random.default_rng(11)
    return float(np.mean([hit(rng, i) for i in range(SIMULATIONS)]))


def both_tests(test: Callable[[np.random.Generator, int], PairedTest]) -> tuple[float, float]:
    """Share of simulations in which the randomisation and the t-test reject."""
    rng = np.random.default_rng(12)
    found = [test(rng, i) for i in range(SIMULATIONS)]
    return float(np.mean([t.p_value < ALPHA for t in found])), float(np.mean([t.p_value_t < ALPHA for t in found]))


def one_run() -> Iterator[Check]:
    """Intervals and tests over queries."""
    for n in (50, 200):
        covered = rate(lambda rng, i, n=n: covers(bootstrap_interval(values(rng, (n,)).tolist(), i, draws=DRAWS)))
        yield Check(f"95% bootstrap interval of a mean over {n} queries: covers it", covered, 0.93, 0.97)
    for n in (50, 200):

        def null(rng: np.random.Generator, i: int, n: int = n) -> PairedTest:
            system, baseline = systems(rng, 2, n).tolist()
            return paired_test(system, baseline, i, draws=DRAWS)

        randomisation, t = both_tests(null)
        yield Check(f"paired randomisation test, equal systems, {n} queries: p < 0.05", randomisation, 0.04, 0.06)
        yield Check(f"paired t-test, equal systems, {n} queries: p < 0.05", t, 0.04, 0.06)


def several_systems() -> Iterator[Check]:
    """Five systems against one baseline: the chance that any of the equal ones is called different."""
    for better in (0, 2):
        found = np.array(list(_families(better)))
        what = "all equal to it" if not better else f"{better} of them better by 0.2"
        title = f"five systems against a baseline, {what}: any equal one has"
        yield Check(f"{title} p < 0.05 by Holm", float(found[:, 0].mean()), 0.0, 0.05 + 0.007)
        # Without Holm it has to show that there is something to control.
        yield Check(f"{title} p < 0.05 without Holm", float(found[:, 1].mean()), 0.07, 1.0)


def _families(better: int) -> Iterator[tuple[bool, bool]]:
    rng = np.random.default_rng(13)
    for i in range(SIMULATIONS):
        baseline, *others = systems(rng, 6, 50)
        effects = [0.2 if place < better else 0.0 for place in range(5)]
        p = [
            paired_test((o + e).tolist(), baseline.tolist(), i, 300).p_value
            for o, e in zip(others, effects, strict=True)
        ]
        yield min(holm(p)[better:]) < ALPHA, min(p[better:]) < ALPHA


def several_seeds() -> Iterator[Check]:
    """Intervals and tests over seeds and queries, which may be careful; those over queries alone for contrast."""
    for num_seeds, effect in ((3, 0.02), (3, 0.06), (5, 0.04)):
        title = f"{num_seeds} seeds, effect {effect}, 50 queries"

        def covered(rng: np.random.Generator, i: int, s: int = num_seeds, e: float = effect) -> bool:
            return covers(interval_over_seeds(runs(rng, values(rng, (50,)), s, e), i, draws=DRAWS))

        def null(rng: np.random.Generator, i: int, s: int = num_seeds, e: float = effect) -> PairedTest:
            system, baseline = systems(rng, 2, 50)
            return paired_test_over_seeds(runs(rng, system, s, e), runs(rng, baseline, s, e), i, draws=DRAWS)

        def naive(rng: np.random.Generator, i: int, s: int = num_seeds, e: float = effect) -> PairedTest:
            system, baseline = systems(rng, 2, 50)
            ours, theirs = (np.mean(runs(rng, v, s, e), axis=0).tolist() for v in (system, baseline))
            return paired_test(ours, theirs, i, draws=DRAWS)

        yield Check(f"{title}: 95% interval over both covers the mean", rate(covered), 0.93, 0.99)
        randomisation, t = both_tests(null)
        yield Check(f"{title}: randomisation test over both, equal systems: p < 0.05", randomisation, 0.0, 0.06)
        yield Check(f"{title}: t-test over both, equal systems: p < 0.05", t, 0.0, 0.06)
        yield Check(f"{title}: t-test over queries alone, equal systems: p < 0.05", both_tests(naive)[1], 0.0, 1.0)


def table(checks: list[Check]) -> str:
    """The generated part of docs/evaluation.md."""
    lines = [f"| check, {SIMULATIONS} simulations each | rate | bounds |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {c.what} | {c.rate:.4f} | {c.low:g} to {c.high:g} |" for c in checks)])


def main() -> int:
    checks: list[Check] = []
    for part in (one_run(), several_systems(), several_seeds()):
        for check in part:
            checks.append(check)
            print(f"{'ok' if check.holds else 'FAILS':6} {check.rate:.4f} {check.what}", flush=True)
    before, rest = DOCS.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    DOCS.write_text(f"{before}{BEGIN}\n\n{table(checks)}\n\n{END}{after}", encoding="utf-8")
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
