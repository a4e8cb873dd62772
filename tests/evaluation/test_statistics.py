"""Intervals and tests: by hand where there are few values, by simulation where there are many."""

import math

import numpy as np
import pytest
from scipy import stats

from rl_rerank.evaluation.statistics import bootstrap_interval, bootstrap_intervals, holm, paired_test, rise


def test_the_interval_of_one_value_is_that_value():
    assert bootstrap_interval([0.4], seed=1) == (0.4, 0.4)


def test_the_interval_of_equal_values_has_no_width():
    assert bootstrap_interval([0.5] * 20, seed=1) == (0.5, 0.5)


def test_the_interval_of_two_values_by_hand():
    # Means of two draws from {0, 1}: 0 (1/4), 1/2 (1/2), 1 (1/4). The 2.5% and 97.5% quantiles are 0 and 1; the
    # quantiles of a 40% interval, 30% and 70%, are both 1/2.
    assert bootstrap_interval([0.0, 1.0], seed=1) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], seed=1, level=0.4) == (0.5, 0.5)


def test_the_interval_is_the_normal_one_for_many_values():
    values = np.random.default_rng(0).uniform(size=400)
    error = 1.96 * values.std() / math.sqrt(400)
    low, high = bootstrap_interval(values.tolist(), seed=1)
    assert low == pytest.approx(values.mean() - error, abs=0.004)
    assert high == pytest.approx(values.mean() + error, abs=0.004)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    intervals = [bootstrap_interval(rng.normal(0.3, 1, 60).tolist(), seed=i, draws=400) for i in range(1000)]
    assert 0.93 <= np.mean([low <= 0.3 <= high for low, high in intervals]) <= 0.97


def test_the_interval_depends_on_nothing_but_values_and_seed():
    values = [0.1, 0.7, 0.3, 0.9]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    # More values than fit one chunk of draws
    low, high = bootstrap_interval([0.0, 1.0] * 50_000, seed=1, draws=100)
    assert 0.49 < low < 0.5 < high < 0.51


def test_intervals_of_several_measures_are_those_of_each_by_itself():
    one, other = [0.1, 0.7, 0.3, 0.9], [0.0, 1.0, 1.0, 0.0]
    together = bootstrap_intervals([one, other], seed=1)
    assert together == [bootstrap_interval(one, seed=1), bootstrap_interval(other, seed=1)]


def test_holm_by_hand():
    # Sorted .01, .02, .03, .5 times 4, 3, 2, 1: .04, .06, .06, .5; none falls below one before it.
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.3, 0.4]) == [0.6, 0.6]
    assert holm([0.7, 0.9, 0.8]) == [1.0, 1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@pytest.mark.slow
def test_holm_holds_the_chance_of_any_false_discovery():
    rng = np.random.default_rng(7)
    plain, adjusted = [], []
    for i in range(300):
        baseline = rng.normal(size=25)
        # Two systems are better, three are not.
        systems = [(rng.normal(1.5 if s < 2 else 0.0, 1, 25) + baseline).tolist() for s in range(5)]
        p = [paired_test(system, baseline.tolist(), seed=i, draws=300).p_value for system in systems]
        plain.append(min(p[2:]) < 0.05)
        adjusted.append(min(holm(p)[2:]) < 0.05)
    # Without it about 1 - .95^3 = 14% of 300; with it at most 5%, give or take 1.3%.
    assert np.mean(plain) > 0.09
    assert np.mean(adjusted) < 0.09


def test_the_randomisation_test_by_hand():
    # Differences 1, 2, -1/2: the sum is 5/2. Of the 8 sign patterns, sums of size 7/2 and 5/2 (two each) are as large.
    test = paired_test([1.0, 2.0, 0.0], [0.0, 0.0, 0.5], seed=1)
    assert test.difference == pytest.approx(2.5 / 3)
    assert test.p_value == 0.5
    # Differences 1, 1, 1, 1, 1: only all plus and all minus are as large: 2 of 32.
    assert paired_test([1.0] * 5, [0.0] * 5, seed=1).p_value == 2 / 32


def test_the_t_test_by_hand():
    # Differences 1, 2, 3: t = 2 / (1 / sqrt 3) with 2 degrees of freedom: p = 1 - t / sqrt(2 + t^2) = 1 - sqrt(12 / 14)
    test = paired_test([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], seed=1)
    assert test.p_value_t == pytest.approx(1 - math.sqrt(12 / 14))


def test_no_difference_at_all_is_no_evidence():
    for n in (1, 5, 300):
        test = paired_test([0.3] * n, [0.3] * n, seed=1)
        assert test == (0.0, (0.0, 0.0), 1.0, 1.0)


def test_one_query_is_no_evidence():
    test = paired_test([0.9], [0.1], seed=1)
    assert test.difference == pytest.approx(0.8)
    assert (test.p_value, test.p_value_t) == (1.0, 1.0)


def test_a_constant_difference_is_significant():
    test = paired_test([1.0] * 40, [0.5] * 40, seed=1)
    assert (test.difference, test.interval) == (0.5, (0.5, 0.5))
    assert test.p_value == pytest.approx(1 / 10_001)
    assert test.p_value_t == 0.0


def test_swapping_system_and_baseline_swaps_the_sign_only():
    rng = np.random.default_rng(2)
    a, b = rng.uniform(size=60).tolist(), rng.uniform(size=60).tolist()
    one, other = paired_test(a, b, seed=1), paired_test(b, a, seed=1)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.p_value, one.p_value_t) == pytest.approx((other.p_value, other.p_value_t))
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]), abs=0.01)


def test_the_tests_agree_with_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.12, 0.3, 50), rng.normal(0, 0.3, 50)
    test = paired_test(a.tolist(), b.tolist(), seed=1)
    theirs = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=10_000, rng=4)
    assert test.p_value == pytest.approx(theirs.pvalue, abs=0.015)
    assert test.p_value_t == pytest.approx(stats.ttest_rel(a, b)[1])


@pytest.mark.slow
def test_under_no_effect_five_percent_are_significant():
    rng = np.random.default_rng(4)
    tests = [paired_test(rng.normal(size=20).tolist(), [0.0] * 20, seed=i, draws=300) for i in range(1000)]
    # 50 of 1000 are expected, with a standard deviation of 7. The draws are seeded.
    assert 40 <= sum(test.p_value < 0.05 for test in tests) <= 60
    assert 40 <= sum(test.p_value_t < 0.05 for test in tests) <= 60


def test_values_that_cannot_be_tested_are_refused():
    with pytest.raises(ValueError, match="needs pairs; got 2 and 1 values"):
        paired_test([0.1, 0.2], [0.1], seed=1)
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap_interval([], seed=1)
    with pytest.raises(ValueError, match="must be finite numbers; got nan"):
        rise([0.1, math.nan])


def test_a_rising_reward_by_hand():
    # First third 0, 1, 2, last third 10, 11, 12: t = 10 / sqrt(1/3 + 1/3) = 12.247 with 4 degrees of freedom. With
    # u = t / sqrt(t^2 + 4) = sqrt(150 / 154), P(T > t) = 1/2 - 3/4 (u - u^3 / 3).
    u = math.sqrt(150 / 154)
    result = rise([0.0, 1.0, 2.0, 5.0, 5.0, 5.0, 10.0, 11.0, 12.0])
    assert (result.first, result.last) == (1.0, 11.0)
    assert result.p_value == pytest.approx(0.5 - 0.75 * (u - u**3 / 3), rel=1e-6)


def test_the_rise_agrees_with_scipy_for_unequal_variances():
    rng = np.random.default_rng(6)
    rewards = [*rng.normal(0.4, 0.02, 20), *rng.normal(0.5, 0.1, 20), *rng.normal(0.43, 0.1, 20)]
    theirs = stats.ttest_ind(rewards[-20:], rewards[:20], equal_var=False, alternative="greater")
    assert rise(rewards).p_value == pytest.approx(theirs[1])


def test_a_falling_a_flat_and_a_short_reward_do_not_rise():
    assert rise([12.0, 11.0, 10.0, 5.0, 5.0, 5.0, 2.0, 1.0, 0.0]).p_value > 0.99
    assert rise([0.5] * 9).p_value == 1.0
    assert rise([0.0, 0.5, 1.0]) == (0.0, 1.0, 1.0)


def test_a_step_between_constants_rises():
    assert rise([0.0] * 5 + [1.0] * 5).p_value == 0.0
