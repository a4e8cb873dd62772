"""Probabilities of relevance from an exported model's scores: Platt scaling on development queries. Free of torch.

A probability is 1 / (1 + exp(-(slope score + intercept))). The two numbers maximise the likelihood of the judgments,
with targets slightly inside of 0 and 1. Platt 1999, "Probabilistic outputs for support vector machines"; targets and
Newton's method as in Lin et al. 2007, https://doi.org/10.1007/s10994-007-5018-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_rerank.metrics.logistic import sigmoid

STEPS = 100
"""Of Newton's method, at most; it takes fewer than ten."""
SMALLEST = 1e-10
"""Sum of squares of the gradient below which it ends."""


@dataclass(kw_only=True)
class Calibration:
    """How scores become probabilities of relevance, and what that was learned from."""

    slope: float
    intercept: float
    run: str
    """The rerank stage whose scores and judgments they were fitted to."""
    queries: int
    documents: int

    def probability(self, score: float) -> float:
        """The probability that a document with this score is relevant, from 0 to 1."""
        return sigmoid(self.slope * score + self.intercept)


def fit(scores: Sequence[float], relevant: Sequence[bool]) -> tuple[float, float]:
    """Compute slope and intercept.

    Args:
        scores: of documents, all finite.
        relevant: whether each of them is.

    Raises:
        ValueError: unless some documents are relevant and some are not; or if higher scores do not mean more relevant
            documents, so that a probability would turn the order around.
    """
    s, positive = np.asarray(scores, dtype=float), np.asarray(relevant, dtype=bool)
    if not (positive.any() and (~positive).any()):
        raise ValueError(f"{positive.sum()} of {len(positive)} documents are relevant; it takes both kinds")
    center, scale = s.mean(), s.std() or 1.0
    x = (s - center) / scale
    ahead, behind = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (ahead + 1) / (ahead + 2), 1 / (behind + 2))
    a, b = 0.0, math.log((ahead + 1) / (behind + 1))
    for _ in range(STEPS):
        gradient, hessian = _derivatives(x, targets, a, b)
        if float(gradient @ gradient) < SMALLEST:
            break
        move, loss, step = np.linalg.solve(hessian, gradient), _loss(x, targets, a, b), 1.0
        while step > SMALLEST and _loss(x, targets, a - step * move[0], b - step * move[1]) > loss:
            step /= 2
        a, b = a - step * move[0], b - step * move[1]
    if a <= 0:
        raise ValueError("relevant documents do not have the higher scores, so that probabilities would turn the order")
    return float(a / scale), float(b - a * center / scale)


def _loss(x: np.ndarray, targets: np.ndarray, a: float, b: float) -> float:
    z = a * x + b
    return float(np.sum(np.logaddexp(0, z) - targets * z))


def _derivatives(x: np.ndarray, targets: np.ndarray, a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """[2] and [2, 2] with respect to slope and intercept."""
    z = a * x + b
    p = sigmoid(z)
    difference, weight = p - targets, p * (1 - p)
    gradient = np.array([difference @ x, difference.sum()])
    ridge = 1e-12 * np.eye(2)  # where all scores are equal
    return gradient, np.array([[weight @ (x * x), weight @ x], [weight @ x, weight.sum()]]) + ridge
