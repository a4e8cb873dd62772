"""How sure a difference is: bootstrap intervals, paired tests, and whether a training reward rises."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

_CHUNK = 100_000
"""Numbers that are drawn at a time: they fit a processor's cache, and memory stays bounded."""


class PairedTest(NamedTuple):
    """A system against a baseline on the same queries."""

    difference: float
    """Mean of system minus baseline."""
    interval: tuple[float, float]
    """95% bootstrap interval of the difference, over queries."""
    p_value: float
    """Two-sided paired randomisation test."""
    p_value_t: float
    """Two-sided paired t-test."""


class Rise(NamedTuple):
    """The first third of a training against its last."""

    first: float
    last: float
    p_value: float
    """One-sided Welch t-test over steps of `last > first`; 1 where a third has fewer than two steps."""


def bootstrap_interval(
    values: Sequence[float], seed: int, level: float = 0.95, draws: int = 10_000
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `values`.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    [interval] = bootstrap_intervals([values], seed, level, draws)
    return interval


def bootstrap_intervals(
    samples: Sequence[Sequence[float]], seed: int, level: float = 0.95, draws: int = 10_000
) -> list[tuple[float, float]]:
    """`bootstrap_interval` of every sample, all over the same resampled queries.

    Args:
        samples: values of one query list, [measures, queries].
    """
    values = np.stack([_sample(sample, "values") for sample in samples], axis=1)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level}")
    low, high = np.quantile(bootstrap_means(values, seed, draws), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def stratified_intervals(
    strata: Sequence[Sequence[Sequence[float]]], seed: int, level: float = 0.95, draws: int = 10_000
) -> list[tuple[float, float]]:
    """The percentile bootstrap interval of each measure's mean over strata of the strata's means.

    Queries are resampled inside of each stratum, independently of the others.

    Args:
        strata: of each stratum the values of its queries, [measures, queries].

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 8.
    """
    seeds = np.random.SeedSequence(seed).spawn(len(strata))
    samples = [np.stack([_sample(values, "values") for values in stratum], axis=1) for stratum in strata]
    means = [bootstrap_means(values, child, draws) for values, child in zip(samples, seeds, strict=True)]
    low, high = np.quantile(np.mean(means, axis=0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def bootstrap_means(values: Floats, seed: int | np.random.SeedSequence, draws: int) -> Floats:
    """Means of `values` [queries, measures] over queries drawn with replacement: [draws, measures]."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = []
    for rows in _chunks(draws, n):
        # How often each draw holds each query, counted for all of them at once.
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means.append(counts.astype(np.float64) @ values / n)
    return np.concatenate(means)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several: below 0.05 in any place with a chance of at most 5% where no effect is real.

    Source: Holm 1979, https://www.jstor.org/stable/4615733
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def paired_test(system: Sequence[float], baseline: Sequence[float], seed: int, draws: int = 10_000) -> PairedTest:
    """Test whether the mean of `system` differs from that of `baseline`, query by query.

    The randomisation test flips the signs of the paired differences: over all 2^n sign patterns where these are no
    more than `draws`, else over `draws` random ones, the observed pattern counted among them.

    Source: Smucker, Allan & Carterette 2007, https://doi.org/10.1145/1321440.1321528
    """
    if len(system) != len(baseline):
        raise ValueError(f"a paired test needs pairs; got {len(system)} and {len(baseline)} values")
    ours, theirs = _sample(system, "system"), _sample(baseline, "baseline")
    difference = ours - theirs
    return PairedTest(
        difference=float(difference.mean()),
        interval=bootstrap_interval(difference.tolist(), seed, draws=draws),
        p_value=_randomisation(difference, seed, draws),
        p_value_t=_t_test(ours, theirs),
    )


def rise(rewards: Sequence[float]) -> Rise:
    """Whether the mean reward of the last third of steps lies above that of the first third.

    Args:
        rewards: mean reward of every step, in step order. Steps are taken as independent.
    """
    sample = _sample(rewards, "rewards")
    third = max(1, len(sample) // 3)
    first, last = sample[:third], sample[-third:]
    return Rise(float(first.mean()), float(last.mean()), _welch(first, last))


def _randomisation(difference: Floats, seed: int, draws: int) -> float:
    n = len(difference)
    # A tie of sums must not depend on the order of summation.
    observed = abs(float(difference.sum())) - 1e-12 * float(np.abs(difference).sum())
    if n < 63 and 2**n <= draws:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(np.mean(np.abs((bits * 2 - 1) @ difference) >= observed))
    extreme = np.count_nonzero(np.abs(n * flipped_means(difference, seed, draws)) >= observed)
    return (1 + int(extreme)) / (1 + draws)


def flipped_means(difference: Floats, seed: int, draws: int) -> Floats:
    """Means of `difference` with the sign of each query's value flipped at random: [draws]."""
    rng = np.random.default_rng(seed)
    n = len(difference)
    # The sum with random signs is twice the sum of a random half, less the whole.
    halves = [
        rng.integers(0, 2, (rows, n), dtype=np.int8).astype(np.float64) @ difference for rows in _chunks(draws, n)
    ]
    return (2 * np.concatenate(halves) - difference.sum()) / n


def _t_test(system: Floats, baseline: Floats) -> float:
    difference = system - baseline
    if len(difference) < 2:
        return 1.0
    if np.ptp(difference) <= 1e-12 * np.abs(difference).max():  # but for rounding they are all the same
        return float(difference[0] == 0)
    return float(stats.ttest_rel(system, baseline).pvalue)


def _welch(first: Floats, last: Floats) -> float:
    n = len(first)
    if n < 2 or np.ptp(first) == np.ptp(last) == 0:
        return float(n < 2 or last[0] <= first[0])
    # From moments: of raw values scipy warns where a third is constant, as the rewards of malformed answers are.
    (a, u), (b, v) = ((third.mean(), third.std(ddof=1)) for third in (last, first))
    return float(stats.ttest_ind_from_stats(a, u, n, b, v, n, equal_var=False, alternative="greater").pvalue)


def _sample(values: Sequence[float], name: str) -> Floats:
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError(f"{name} is empty, so there is nothing to test")
    if not np.isfinite(sample).all():
        raise ValueError(f"{name} must be finite numbers; got {sample[~np.isfinite(sample)][0]}")
    return sample


def _chunks(draws: int, n: int) -> Iterator[int]:
    rows = max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        yield min(rows, draws - start)
