"""SNIPS on simulated clicks: it finds the value by true relevance, and its variance is that of its errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rl_rerank.evaluation.clicks.snips import Visit, difference, snips, weight

THETA = np.array([1.0, 0.6, 0.35, 0.2])
WORTH = 1 / np.log2(np.arange(4) + 2)


def test_a_click_counts_one_over_its_propensity():
    visits = [Visit(("a", "b", "c"), {"a": 1.0}), Visit(("a", "b", "c"), {"c": 2.0, "b": 1.0}), Visit(("a",), {})]
    # Ranks 1, 3 (weight 2) and 2: (1 + 2 / log2 4 + 1 / log2 3) / 4
    second = 1 / math.log2(3)
    value = (1 + 1 + second) / 4
    found = snips(visits)
    assert found.value == pytest.approx(value) and found.num_visits == 2
    # n / (n - 1) = 2 times the squared residuals, by the square of the sum of weights
    residuals = [1 - value, 1 + second - 3 * value]
    assert found.variance == pytest.approx(2 * sum(r * r for r in residuals) / 16)
    low, high = found.interval
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(found.variance), rel=1e-4)


def test_equal_weights_give_the_plain_mean():
    visits = [Visit(("a", "b"), {"a": 4.0}), Visit(("a", "b"), {"b": 4.0})]
    assert snips(visits).value == pytest.approx((1 + 1 / math.log2(3)) / 2)


def simulated(rng: np.random.Generator, num_visits: int) -> tuple[list[Visit], list[Visit], list[Visit], float]:
    """Clicks at places that are examined with THETA on what was shown in order 0..3; the ranking under test is 3..0.

    Documents further back are more often relevant, so that plain clicks flatter the order that was shown.

    Returns:
        Visits with weights, with weights of 1, the order that was shown with weights, and the value by true relevance.
    """
    relevant = rng.random((num_visits, 4)) < np.array([0.3, 0.4, 0.5, 0.6])
    clicked = relevant & (rng.random((num_visits, 4)) < THETA)
    names, ranked = np.array(list("abcd")), tuple("dcba")
    weighted, plain = (
        [Visit(ranked, {str(names[i]): float(w[i]) for i in np.flatnonzero(row)}) for row in clicked]
        for w in (1 / THETA, np.ones(4))
    )
    shown = [visit._replace(docids=tuple("abcd")) for visit in weighted]
    return weighted, plain, shown, float((relevant * WORTH[::-1]).sum() / relevant.sum())


def test_the_value_by_true_relevance_is_recovered_and_plain_clicks_miss_it():
    weighted, plain, _, truth = simulated(np.random.default_rng(0), 4000)
    found = snips(weighted)
    assert abs(found.value - truth) < 3 * math.sqrt(found.variance) < 0.05
    assert snips(plain).value < truth - 0.05


def test_the_variance_is_that_of_the_errors():
    rng, errors, variances, covered = np.random.default_rng(1), [], [], 0
    truth = float((np.array([0.3, 0.4, 0.5, 0.6]) * WORTH[::-1]).sum() / 1.8)
    for _ in range(300):
        found = snips(simulated(rng, 100)[0])
        errors.append(found.value - truth)
        variances.append(found.variance)
        covered += found.interval[0] <= truth <= found.interval[1]
    assert np.mean(variances) == pytest.approx(np.var(errors), rel=0.25)
    assert 0.90 < covered / 300 < 0.98  # of intervals of 95%


def test_a_paired_difference_is_the_difference_with_less_variance():
    weighted, _, shown, _ = simulated(np.random.default_rng(2), 500)
    found = difference(weighted, shown)
    assert found.value == pytest.approx(snips(weighted).value - snips(shown).value)
    same = difference(weighted, weighted)
    assert (same.value, same.variance) == (0, 0)
    with pytest.raises(ValueError, match="visit 0 has other clicks or weights"):
        difference([Visit(("a",), {"a": 1.0})] * 2, [Visit(("a",), {"a": 2.0})] * 2)


def test_weights_are_clipped_and_bad_input_is_refused():
    assert weight(0.5, 0.05) == 2 and weight(0.001, 0.05) == 20
    with pytest.raises(ValueError, match=r"propensity must be from 0 to 1.*got 1.5 and 0.05"):
        weight(1.5, 0.05)
    with pytest.raises(ValueError, match="docid 'z' was clicked and is not ranked"):
        snips([Visit(("a",), {"z": 1.0})] * 2)
    with pytest.raises(ValueError, match="at least two visits with a click; got 1"):
        snips([Visit(("a",), {"a": 1.0}), Visit(("a",), {})])
