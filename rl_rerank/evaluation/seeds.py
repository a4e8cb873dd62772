"""How sure a number is where a system was trained several times: over seeds as well as queries.

A mean over S runs and Q queries varies for two reasons. Other queries would give another mean; so would other seeds,
and no number of queries makes up for that. The model is that of a crossed design, value = mean + seed + query + rest:

- Queries are resampled, as for one run: the mean over runs of each query is the unit. This holds the query effect and
  the rest, what a seed does to single queries, in their true proportion.
- Seeds are too few to be resampled: three seeds have ten resamples, and their variance is a third too small. Their
  effect is taken as normal with the variance that the analysis of variance leaves to it, the variance of the runs'
  means less the rest's part in it (0 where the rest explains all), and drawn as Student's t with S - 1 degrees of
  freedom times its standard error; for the difference of two systems, with Satterthwaite's degrees of freedom.

A system with one run says nothing about seeds and is taken as it is: a first stage, an untrained model. Seeds of two
systems are taken as unrelated, also where their numbers are the same.

Source: Cornfield & Tukey 1956, https://doi.org/10.1214/aoms/1177728067, for the variances; Satterthwaite 1946,
https://doi.org/10.2307/3002019, for the degrees of freedom of their sum.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from rl_rerank.evaluation.statistics import Floats, PairedTest, bootstrap_means, flipped_means

Runs = Sequence[Sequence[float]]
"""[seeds, queries]: the values of a measure, queries in the same order in every run."""


class _Source(NamedTuple):
    """A source of a mean's variance."""

    variance: float
    """Of the mean, from this source alone."""
    freedom: float
    """Degrees of freedom of the estimate, at least 1."""


def interval_over_seeds(runs: Runs, seed: int, level: float = 0.95, draws: int = 10_000) -> tuple[float, float]:
    """The interval of a system's mean, over queries and seeds; that of `bootstrap_interval` for a single run."""
    values = _runs(runs, "runs")
    means = bootstrap_means(values.mean(axis=0)[:, None], seed, draws)[:, 0]
    means += _seed_noise([values], seed, draws)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test_over_seeds(system: Runs, baseline: Runs, seed: int, draws: int = 10_000) -> PairedTest:
    """Test whether a system would beat a baseline with other queries and other seeds.

    The interval and the randomisation test both add the seeds' noise to what the queries do: resampled for the
    interval, with the signs of the queries' mean differences flipped for the test. The t-test divides the difference
    by the root of the summed variances, with Satterthwaite's degrees of freedom.
    """
    ours, theirs = _runs(system, "system"), _runs(baseline, "baseline")
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"a paired test needs pairs; got {ours.shape[1]} and {theirs.shape[1]} queries")
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    mean = float(difference.mean())
    noise = _seed_noise([ours, theirs], seed, draws)
    resampled = bootstrap_means(difference[:, None], seed, draws)[:, 0] + noise
    low, high = np.quantile(resampled, [0.025, 0.975])
    # A tie of sums must not depend on the order of summation.
    observed = abs(mean) - 1e-12 * float(np.abs(difference).mean())
    extreme = np.count_nonzero(np.abs(flipped_means(difference, seed, draws) + noise) >= observed)
    return PairedTest(
        difference=mean,
        interval=(float(low), float(high)),
        p_value=(1 + int(extreme)) / (1 + draws),
        p_value_t=_t_test(difference, [ours, theirs]),
    )


def _seed_noise(systems: Sequence[Floats], seed: int, draws: int) -> Floats:
    """Draws of what seeds add to the systems' summed or subtracted means."""
    source = _sum([source for runs in systems if (source := _seed_source(runs))])
    if source.variance == 0:
        return np.zeros(draws)
    # Its own stream, independent of the one that draws queries.
    rng = np.random.default_rng([seed, 1])
    return rng.standard_t(source.freedom, draws) * math.sqrt(source.variance)


def _sum(sources: Sequence[_Source]) -> _Source:
    variance = sum(source.variance for source in sources)
    if variance == 0:
        return _Source(0.0, 1.0)
    return _Source(variance, variance**2 / sum(source.variance**2 / source.freedom for source in sources))


def _seed_source(runs: Floats) -> _Source | None:
    num_seeds, num_queries = runs.shape
    if num_seeds < 2:
        return None
    run_means = runs.mean(axis=1)
    rest = runs - run_means[:, None] - runs.mean(axis=0) + runs.mean()
    freedom = (num_seeds - 1) * max(num_queries - 1, 1)
    of_rest = float((rest**2).sum()) / freedom / num_queries
    return _Source(max(0.0, float(run_means.var(ddof=1)) - of_rest) / num_seeds, num_seeds - 1)


def _t_test(difference: Floats, systems: Sequence[Floats]) -> float:
    mean, n = float(difference.mean()), len(difference)
    if n < 2 or mean == 0:
        return 1.0
    queries = _Source(float(difference.var(ddof=1)) / n, n - 1)
    total = _sum([queries, *(source for runs in systems if (source := _seed_source(runs)))])
    if total.variance == 0:
        return 0.0
    return float(2 * stats.t.sf(abs(mean) / math.sqrt(total.variance), total.freedom))


def _runs(runs: Runs, name: str) -> Floats:
    lengths = sorted({len(run) for run in runs})
    if not lengths or lengths[0] == 0:
        raise ValueError(f"{name} holds no run with queries, so there is nothing to test")
    if len(lengths) > 1:
        raise ValueError(f"{name}: every run must have the same queries; got runs of {lengths} queries")
    values = np.asarray(runs, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite numbers; got {values[~np.isfinite(values)][0]}")
    return values
