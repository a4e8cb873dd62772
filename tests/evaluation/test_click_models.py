"""Click models of carousel pages recover what a simulator drew from, and explain pages that they have not seen."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from rl_rerank.evaluation.clicks import cascade, positions
from rl_rerank.evaluation.clicks.cascade import CascadeModel
from rl_rerank.evaluation.clicks.pages import Pages, log_likelihood, perplexity
from rl_rerank.evaluation.clicks.positions import PositionModel

ALPHA = np.array([0.05, 0.3, 0.6])


def theta(rows: int, columns: int) -> np.ndarray:
    return 0.8 ** np.arange(rows)[:, None] * 0.7 ** np.arange(columns)[None, :]


def kinds(pages: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, len(ALPHA), (pages, rows, columns))


def simulated(model: PositionModel | CascadeModel, pages: int, seed: int) -> Pages:
    rows, columns = (4, 5) if isinstance(model, PositionModel) else (3, 3)
    return model.simulate(kinds(pages, rows, columns, seed), np.random.default_rng(seed + 100))


POSITIONS = PositionModel(theta(4, 5), ALPHA)
CASCADE = CascadeModel(np.array([0.9, 0.7]), np.array([0.9, 0.7]), np.array([0.05, 0.2, 0.4]))


def test_examination_by_row_and_column_is_recovered_from_clicks_alone():
    found = positions.fit(simulated(POSITIONS, 8000, 1))
    assert np.abs(found.relative_theta - POSITIONS.relative_theta).max() < 0.05
    # Only the products are determined: what theta lacks, alpha has.
    assert np.abs(found.alpha * found.theta.max() - ALPHA).max() < 0.03


def test_recorded_gaze_determines_examination_itself():
    pages = simulated(POSITIONS, 2000, 2)
    found = positions.fit_observed(pages)
    assert np.abs(found.theta - POSITIONS.theta).max() < 0.05 and np.abs(found.alpha - ALPHA).max() < 0.03
    with pytest.raises(ValueError, match="no recorded gaze"):
        positions.fit_observed(Pages(pages.kinds, pages.clicked))


def test_a_clicked_item_counts_as_examined():
    shown = Pages(np.zeros((2, 1, 1), int), np.array([[[True]], [[False]]]), np.zeros((2, 1, 1), bool))
    # One of two pages examined, (1 + 1) / (2 + 2); one click in one examination, (1 + 1) / (1 + 2).
    found = positions.fit_observed(shown)
    assert found.theta.tolist() == [[0.5]] and found.alpha == pytest.approx([2 / 3])


@pytest.mark.slow
def test_the_cascade_is_recovered_from_clicks_alone():
    found = cascade.fit(simulated(CASCADE, 12000, 3))
    assert np.abs(found.alpha - CASCADE.alpha).max() < 0.03
    assert np.abs(found.right - CASCADE.right).max() < 0.05
    assert np.abs(found.down - CASCADE.down).max() < 0.06


def test_a_cascades_outcomes_have_a_probability_of_one_together():
    shown = kinds(1, 2, 3)
    clicks = np.concatenate([np.zeros((1, 2, 3), bool), np.eye(6, dtype=bool).reshape(6, 2, 3)])
    outcomes = Pages(np.repeat(shown, 7, axis=0), clicks)
    model = CascadeModel(np.array([0.9, 0.4]), np.array([0.6]), ALPHA)
    assert np.exp(model.log_likelihoods(outcomes)).sum() == pytest.approx(1)
    assert np.exp(model.log_likelihoods(outcomes))[1:] == pytest.approx(model.click_probabilities(outcomes)[0].ravel())


def test_a_cascades_likelihood_is_that_of_its_steps():
    # One kind of alpha .5, right .8, down .6, 2 x 2. A click at (2, 1): the first row is left without a click,
    # behind its first item (.5 * .2) or its second (.5 * .8 * .5), then down .6, then the click .5.
    model = CascadeModel(np.array([0.8]), np.array([0.6]), np.array([0.5]))
    clicked = np.zeros((2, 2, 2), bool)
    clicked[0, 1, 0] = True
    left = 0.5 * 0.2 + 0.5 * 0.8 * 0.5
    expected = [left * 0.6 * 0.5, left * 0.4 + left * 0.6 * left]
    assert np.exp(model.log_likelihoods(Pages(np.zeros((2, 2, 2), int), clicked))) == pytest.approx(expected)


@pytest.mark.parametrize("model", [POSITIONS, CASCADE], ids=["positions", "cascade"])
def test_what_is_simulated_is_as_frequent_as_the_model_says(model):
    one = simulated(model, 1, 0)
    pages = model.simulate(np.repeat(one.kinds, 20000, axis=0), np.random.default_rng(0))
    assert pages.examined is not None
    assert np.abs(pages.examined.mean(axis=0) - model.examinations(pages)[0]).max() < 0.02
    assert np.abs(pages.clicked.mean(axis=0) - model.click_probabilities(pages)[0]).max() < 0.02
    assert not (pages.clicked & ~pages.examined).any()


@pytest.mark.parametrize("module", [positions, cascade], ids=["positions", "cascade"])
def test_more_iterations_never_explain_the_clicks_much_worse(module):
    pages = simulated(CASCADE, 1000, 4)
    values = [log_likelihood(module.fit(pages, iterations=n), pages) for n in (1, 2, 4, 8, 64)]
    # Monotone but for the pseudo-counts, which weigh little against 1,000 pages.
    assert all(later > earlier - 3e-3 for earlier, later in pairwise(values))
    assert values[-1] > values[0] + 0.02


@pytest.mark.slow
def test_held_out_pages_are_explained_best_by_the_model_that_they_come_from():
    train, held_out = simulated(CASCADE, 4000, 5), simulated(CASCADE, 2000, 6)
    own, other = cascade.fit(train), positions.fit(train)
    assert log_likelihood(own, held_out) > log_likelihood(other, held_out) + 0.02
    assert perplexity(own, held_out) < perplexity(other, held_out)
    train, held_out = simulated(POSITIONS, 4000, 7), simulated(POSITIONS, 2000, 8)
    own = positions.fit(train)
    flat = PositionModel(np.full((4, 5), own.theta.mean()), own.alpha)
    assert log_likelihood(own, held_out) > log_likelihood(flat, held_out) + 0.05
    assert perplexity(own, held_out) < perplexity(flat, held_out)


def test_perplexity_is_two_for_a_coin_and_one_for_certainty():
    clicked = np.array([[[True, False]], [[False, False]]])
    pages = Pages(np.zeros((2, 1, 2), int), clicked)
    coin = PositionModel(np.array([[0.5, 0.5]]), np.array([1.0]))
    assert perplexity(coin, pages) == pytest.approx(2)
    assert log_likelihood(coin, pages) == pytest.approx(2 * math.log(0.5))
    # .5 is right in the first column, where one of two is clicked: 2 there, 1 where nothing is ever clicked.
    fitted = PositionModel(np.array([[0.5, 0.0]]), np.array([1.0]))
    assert perplexity(fitted, pages) == pytest.approx(1.5, abs=1e-6)


def test_bad_pages_are_refused():
    shown = np.zeros((2, 1, 2), int)
    with pytest.raises(ValueError, match=r"clicked must have the shape of kinds, \[2, 1, 2\]; got \(1, 1, 2\)"):
        Pages(shown, np.zeros((1, 1, 2), bool))
    with pytest.raises(ValueError, match="must be numbers from 0; got -1"):
        Pages(shown - 1, np.zeros((2, 1, 2), bool))
    with pytest.raises(ValueError, match="page 1 has 2 clicks; in a cascade the first click ends the visit"):
        cascade.fit(Pages(shown, np.array([[[True, False]], [[True, True]]])))
