"""Relevance feedback: a query's vector is moved until the retriever orders documents as a reranker did.

FIRST, Reddy et al. 2024, https://arxiv.org/abs/2406.15657, and its code: the vector alone is trained, by Adam, on the
mean over pairs of softplus(s_j - s_i) / (i + j), where the reranker has the documents at places i < j. A score is
s = (c / 2) q.p; c makes the products q.p of the retriever's own vector span as much as the reranker's points n, ..., 1.

Shapes: N documents, D dimensions.
"""

import numpy as np
from numpy.typing import NDArray

from rl_rerank.metrics.logistic import sigmoid

Floats = NDArray[np.float64]

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""Of Adam, as everywhere."""


def moved(query: Floats, documents: Floats, *, steps: int, learning_rate: float) -> Floats:
    """Train a query's vector: [D], of any length.

    Args:
        query: [D], the retriever's.
        documents: [N, D], the reranker's best first.
    """
    scale, vector = scaled(query, documents), query.copy()
    first, second = np.zeros_like(vector), np.zeros_like(vector)
    for step in range(1, steps + 1):
        gradient = _gradient(vector, documents, scale)
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        mean, square = first / (1 - BETAS[0] ** step), second / (1 - BETAS[1] ** step)
        vector = vector - learning_rate * mean / (np.sqrt(square) + EPSILON)
    return vector


def scaled(query: Floats, documents: Floats) -> float:
    """Compute c / 2; 0 where the documents cannot be told apart, so that nothing is learned."""
    products = documents @ query
    width = float(np.ptp(products)) if len(products) else 0.0
    return (len(products) - 1) / width / 2 if width > 0 else 0.0


def loss(query: Floats, documents: Floats, scale: float) -> float:
    """Compute the loss of a vector; 0 for fewer than two documents."""
    gaps, weights = _pairs(query, documents, scale)
    return float((weights * np.logaddexp(0.0, -gaps)).sum())


def _gradient(query: Floats, documents: Floats, scale: float) -> Floats:
    gaps, weights = _pairs(query, documents, scale)
    pulls = weights * sigmoid(-gaps)  # on the better one, upwards
    return scale * ((pulls.sum(0) - pulls.sum(1)) @ documents)


def _pairs(query: Floats, documents: Floats, scale: float) -> tuple[Floats, Floats]:
    """s_i - s_j, and 1 / (i + j) over the number of pairs i < j, 0 for others: both [N, N]."""
    scores = scale * (documents @ query)
    places = np.arange(1, len(scores) + 1)
    above = places[:, None] < places[None, :]
    weights = above / (places[:, None] + places[None, :]) / max(above.sum(), 1)
    return scores[:, None] - scores[None, :], weights
