"""Intervals and tests over seeds and queries: exact where one source is all there is, by simulation otherwise."""

import math

import numpy as np
import pytest
from scipy import stats

from rl_rerank.evaluation.seeds import interval_over_seeds, paired_test_over_seeds
from rl_rerank.evaluation.statistics import bootstrap_interval, paired_test


def test_one_run_has_the_interval_and_the_test_of_its_queries():
    rng = np.random.default_rng(1)
    a, b = rng.uniform(size=40).tolist(), rng.uniform(size=40).tolist()
    assert interval_over_seeds([a], seed=3) == pytest.approx(bootstrap_interval(a, seed=3))
    ours, theirs = paired_test_over_seeds([a], [b], seed=3), paired_test(a, b, seed=3)
    assert ours.interval == pytest.approx(theirs.interval)
    assert (ours.p_value, ours.p_value_t) == pytest.approx((theirs.p_value, theirs.p_value_t))


def test_runs_that_are_all_the_same_say_that_seeds_do_nothing():
    values = np.random.default_rng(1).uniform(size=40).tolist()
    assert interval_over_seeds([values] * 3, seed=3) == pytest.approx(bootstrap_interval(values, seed=3))


def test_where_queries_are_equal_the_interval_is_that_of_the_seeds_means():
    # Means .2, .3, .4: standard error .1 / sqrt(3), Student's t with 2 degrees of freedom
    error = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    low, high = interval_over_seeds([[0.2] * 30, [0.3] * 30, [0.4] * 30], seed=3, draws=100_000)
    assert low == pytest.approx(0.3 - error, rel=0.05)
    assert high == pytest.approx(0.3 + error, rel=0.05)


def test_where_queries_are_equal_the_t_test_is_that_of_two_samples_of_means():
    # Means .2 .3 .4 against .5 .6 .7: variances .01 / 3 each, so t = .3 / sqrt(.02 / 3) with 4 degrees of freedom.
    system, baseline = [[m] * 30 for m in (0.5, 0.6, 0.7)], [[m] * 30 for m in (0.2, 0.3, 0.4)]
    test = paired_test_over_seeds(system, baseline, seed=3, draws=100_000)
    assert test.difference == pytest.approx(0.3)
    assert test.p_value_t == pytest.approx(stats.ttest_ind([0.5, 0.6, 0.7], [0.2, 0.3, 0.4])[1])


def test_what_a_seed_does_to_single_queries_is_not_taken_for_its_effect():
    # No seed effect: the interval over both is hardly wider than that over queries.
    rng = np.random.default_rng(2)
    runs = rng.normal(0.5, 0.2, 400) + rng.normal(0, 0.1, (8, 400))
    low, high = interval_over_seeds(runs.tolist(), seed=3)
    alone = bootstrap_interval(runs.mean(axis=0).tolist(), seed=3)
    assert high - low < 1.15 * (alone[1] - alone[0])


def test_seeds_that_differ_make_a_difference_uncertain_that_queries_alone_would_call_sure():
    rng = np.random.default_rng(3)
    queries = rng.uniform(size=200)
    system = [(queries + shift + rng.normal(0, 0.02, 200)).tolist() for shift in (0.0, 0.09, 0.18)]
    baseline = [queries.tolist()]
    alone = paired_test(np.mean(system, axis=0).tolist(), baseline[0], seed=3)
    over_both = paired_test_over_seeds(system, baseline, seed=3)
    assert over_both.difference == pytest.approx(alone.difference)
    assert alone.p_value < 0.001 and alone.p_value_t < 0.001
    assert over_both.p_value > 0.1 and over_both.p_value_t > 0.1
    assert over_both.interval[0] < 0 < over_both.interval[1]


def test_intervals_and_tests_keep_their_level_where_seeds_and_queries_both_vary():
    rng = np.random.default_rng(4)
    covered, rejected, rejected_t = [], [], []
    for i in range(300):
        queries = rng.normal(0.5, 0.1, 50)
        system, baseline = (queries + rng.normal(0, 0.05, (3, 1)) + rng.normal(0, 0.1, (3, 50)) for _ in range(2))
        low, high = interval_over_seeds(system.tolist(), seed=i, draws=300)
        covered.append(low <= 0.5 <= high)
        test = paired_test_over_seeds(system.tolist(), baseline.tolist(), seed=i, draws=300)
        rejected.append(test.p_value < 0.05)
        rejected_t.append(test.p_value_t < 0.05)
    # 285 and 15 of 300 are expected, with a standard deviation of 3.8.
    assert 0.90 <= np.mean(covered) <= 0.99
    assert np.mean(rejected) <= 0.09
    assert 0.01 <= np.mean(rejected_t) <= 0.09


def test_no_difference_at_all_is_no_evidence():
    test = paired_test_over_seeds([[0.5, 0.3]] * 2, [[0.5, 0.3]] * 2, seed=1)
    assert test == (0.0, (0.0, 0.0), 1.0, 1.0)


def test_runs_that_cannot_be_tested_are_refused():
    with pytest.raises(ValueError, match="runs holds no run with queries"):
        interval_over_seeds([], seed=1)
    with pytest.raises(ValueError, match=r"system: every run must have the same queries; got runs of \[1, 2\] queries"):
        paired_test_over_seeds([[0.1], [0.1, 0.2]], [[0.1]], seed=1)
    with pytest.raises(ValueError, match="needs pairs; got 2 and 1 queries"):
        paired_test_over_seeds([[0.1, 0.2]], [[0.1]], seed=1)
    with pytest.raises(ValueError, match="runs must be finite numbers; got nan"):
        interval_over_seeds([[0.1, math.nan]], seed=1)
