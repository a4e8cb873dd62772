"""Probabilities of relevance from scores: the fit against scikit-learn's and by recovery, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rl_rerank.serving.calibration import Calibration, fit


def made(slope: float, intercept: float, count: int = 20000) -> tuple[list[float], list[bool]]:
    rng = np.random.default_rng(0)
    scores = rng.normal(2.0, 3.0, count)
    return scores.tolist(), (rng.uniform(size=count) < 1 / (1 + np.exp(-(slope * scores + intercept)))).tolist()


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1.0), (2.0, 3.0), (1e-3, -2.0), (30.0, 10.0)])
def test_the_two_numbers_that_made_judgments_are_found_again(slope: float, intercept: float):
    scores, relevant = made(slope, intercept)
    a, b = fit(scores, relevant)
    found = Calibration(slope=a, intercept=b, run="dev", queries=1, documents=len(scores))
    for score in (-4.0, 0.0, 2.0, 5.0):
        expected = 1 / (1 + math.exp(-(slope * score + intercept)))
        assert found.probability(score) == pytest.approx(expected, abs=0.02)
    assert np.mean([found.probability(s) for s in scores]) == pytest.approx(np.mean(relevant), abs=1e-3)


def test_it_is_the_sigmoid_calibration_of_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    scores, relevant = made(0.7, -1.5, count=300)
    a, b = calibration._sigmoid_calibration(np.array(scores), np.array(relevant, dtype=float))
    # theirs is 1 / (1 + exp(a score + b))
    assert fit(scores, relevant) == pytest.approx((-a, -b), abs=1e-4)


def test_perfect_scores_have_finite_numbers():
    a, b = fit([1.0, 2.0, 3.0, 4.0], [False, False, True, True])
    assert math.isfinite(a) and math.isfinite(b) and a > 0 and -b / a == pytest.approx(2.5)


def test_extreme_scores_have_probabilities():
    found = Calibration(slope=1.0, intercept=0.0, run="dev", queries=1, documents=2)
    assert [found.probability(s) for s in (-math.inf, -1e308, 0.0, 1e308)] == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("scores", "relevant", "says"),
    [
        ([1.0, 2.0], [True, True], "2 of 2 documents are relevant; it takes both kinds"),
        ([1.0, 2.0], [False, False], "0 of 2 documents are relevant; it takes both kinds"),
        ([1.0, 2.0, 3.0], [True, False, False], "relevant documents do not have the higher scores"),
        ([1.0, 1.0, 1.0], [True, False, False], "relevant documents do not have the higher scores"),
    ],
)
def test_what_gives_no_probabilities_is_refused(scores: list[float], relevant: list[bool], says: str):
    with pytest.raises(ValueError, match=says):
        fit(scores, relevant)
