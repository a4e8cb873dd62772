"""Strengths of documents from comparisons of two, by the model of Bradley and Terry."""

import numpy as np
from numpy.typing import NDArray

from rl_rerank.metrics.logistic import sigmoid

LIMIT = 100
"""Newton steps; lists of 100 documents in which every better one wins need 12."""
TOLERANCE = 1e-10
PRIOR = 0.5
"""Votes for and against each document in comparisons with an imagined one of strength 0."""


def strengths(wins: NDArray[np.float64], prior: float = PRIOR) -> NDArray[np.float64]:
    """Find the log strengths s that maximise the log-likelihood of votes, with a prior: [N].

        sum over i, j of wins_ij log p_ij + prior sum over i of (log p_i0 + log p_0i)

    with p_ij = 1 / (1 + exp(s_j - s_i)) and s_0 = 0. It is strictly concave, so its maximum is one, and Newton steps,
    halved where they overshoot, end there. They take about ten where minorise-maximise steps take thousands.

    Args:
        wins: [N, N], how often i was preferred to j, or the sum of the probabilities with which it was.
        prior: above 0.

    Sources: Bradley and Terry 1952, https://doi.org/10.2307/2334029; Hunter 2004,
    https://doi.org/10.1214/aos/1079120141; votes against an imagined item as the prior: Caron and Doucet 2012,
    https://doi.org/10.1080/10618600.2012.638220, whose gamma prior has the same effect.
    """
    votes, own, found = wins + wins.T, wins.sum(1) + prior, np.zeros(len(wins))
    for _ in range(LIMIT):
        p, q = sigmoid(found[:, None] - found), sigmoid(found)
        gradient = own - (votes * p).sum(1) - 2 * prior * q
        spread = votes * p * (1 - p)
        step = np.linalg.solve(np.diag(spread.sum(1) + 2 * prior * q * (1 - q)) - spread, gradient)
        before = _log_likelihood(found, wins, prior)
        while _log_likelihood(found + step, wins, prior) < before and np.abs(step).max(initial=0.0) > TOLERANCE:
            step /= 2
        found = found + step
        if np.abs(step).max(initial=0.0) <= TOLERANCE:
            return found
    raise ArithmeticError(f"no Bradley-Terry scores after {LIMIT} steps from votes {wins.tolist()}, prior {prior}")


def _log_likelihood(s: NDArray[np.float64], wins: NDArray[np.float64], prior: float) -> float:
    of_votes = wins * np.logaddexp(0, s - s[:, None])
    return float(-of_votes.sum() - prior * (np.logaddexp(0, -s) + np.logaddexp(0, s)).sum())
