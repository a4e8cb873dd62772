"""Bradley-Terry: golden values, convergence, and votes of a teacher."""

from __future__ import annotations

import math
import random
from itertools import combinations

import numpy as np
import pytest
from support.synth_runs import apply, example

from rl_rerank.metrics.bradley_terry import strengths
from rl_rerank.types import TeacherOutput


def test_two_documents_have_the_log_odds_of_their_votes_by_hand():
    # By symmetry s and -s, and the derivative is 0 where 3 + p = (3 + 1) sigmoid(2 s) + 2 p sigmoid(s).
    prior = 0.5
    s, t = strengths(np.array([[0.0, 3.0], [1.0, 0.0]]), prior)
    assert s == pytest.approx(-t)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert 3 + prior == pytest.approx(4 * sigmoid(2 * s) + 2 * prior * sigmoid(s))
    # With hardly a prior three votes of four are odds of 3.
    s, t = strengths(np.array([[0.0, 3.0], [1.0, 0.0]]), 1e-6)
    assert s - t == pytest.approx(math.log(3), abs=1e-5)


def test_scores_are_those_of_minorise_maximise_steps():
    rng = random.Random(1)
    wins = np.array([[float(rng.randint(0, 3) * (i != j)) for j in range(5)] for i in range(5)])
    pi, prior = np.ones(5), 0.5
    for _ in range(5000):  # Hunter's equation 30 with an imagined sixth document of strength 1
        sums = (wins + wins.T) / (pi[:, None] + pi)
        pi = (wins.sum(1) + prior) / (sums.sum(1) + 2 * prior / (pi + 1))
    assert strengths(wins, prior) == pytest.approx(np.log(pi), abs=1e-6)


@pytest.mark.parametrize("prior", [0.01, 0.5, 10.0])
@pytest.mark.parametrize("size", [2, 20, 100])
def test_documents_that_always_win_or_never_have_finite_scores_in_the_right_order(size, prior):
    found = strengths(np.triu(np.full((size, size), 2.0), 1), prior)
    assert np.isfinite(found).all() and (np.diff(found) < 0).all()
    assert found == pytest.approx(-found[::-1], abs=1e-6)


def test_many_votes_converge_to_the_strengths_that_they_were_drawn_from():
    rng, truth = np.random.default_rng(0), np.array([1.5, 0.5, 0.0, -0.5, -1.5])
    errors = []
    for votes in (20, 2000):
        wins = np.zeros((5, 5))
        for i, j in combinations(range(5), 2):
            wins[i, j] = rng.binomial(votes, 1 / (1 + math.exp(truth[j] - truth[i])))
            wins[j, i] = votes - wins[i, j]
        errors.append(np.abs(strengths(wins, 0.5) - truth).max())
    # A hundred times the votes leave a tenth of the error, more or less.
    assert errors[1] < 0.1 and errors[1] < 0.4 * errors[0]


def votes(*pairs: tuple[str, str, str]) -> tuple[TeacherOutput, ...]:
    return tuple(TeacherOutput("t", "pairwise", (first, second), text) for first, second, text in pairs)


def test_the_answers_of_a_pairwise_teacher_become_scores():
    given = example(
        *("q", {"a": 0, "b": 0, "c": 0, "d": 0}),
        teachers=(
            *votes(("a", "b", "B"), ("b", "a", "A"), ("b", "c", "A"), ("c", "b", "B")),
            *votes(("a", "c", "A"), ("c", "a", "A"), ("a", "b", "neither"), ("b", "gone", "A")),
            TeacherOutput("t", "listwise", ("a", "b"), "[1] > [2]"),
        ),
    )
    [made], counts = apply([given], "bradley_terry")
    # b won four times, a and c once each against the other: they are equal and stand as before.
    assert made.order == ("b", "a", "c")
    assert made.scores["a"] == pytest.approx(made.scores["c"]) and made.scores["b"] > 0 > made.scores["a"]
    wins = np.array([[0.0, 0.0, 1.0], [2.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    assert list(made.scores.values()) == pytest.approx(strengths(wins, 0.5))
    assert (counts["unusable_votes"], counts["unscored"]) == (1, 1)


def test_an_example_without_votes_is_dropped_and_a_prior_of_0_refused():
    made, counts = apply([example("q", {"a": 1, "b": 0})], "bradley_terry")
    assert made == [] and counts["without_votes"] == 1
    with pytest.raises(ValueError, match=r"prior must be a finite number above 0, because .* got 0"):
        apply([], "bradley_terry", prior=0)


def test_a_ranking_by_the_labels_ends_in_scores_in_their_order():
    grades = {"a": 0, "b": 3, "c": 1, "d": 2}
    [ranked], _ = apply([example("q", grades)], "rank", paradigm="pairwise", engine="labels")
    assert len(ranked.teachers) == 12
    [made], _ = apply([ranked], "bradley_terry")
    assert made.order == ("b", "d", "c", "a")
    assert made.scores["b"] == pytest.approx(-made.scores["a"])
