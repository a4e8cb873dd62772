"""The position-based model of a carousel page: examination depends on row and column alone.

An item of kind k at (r, c) is clicked with probability theta[r, c] * alpha[k]: it is examined, and it attracts.
Richardson et al. 2007, https://doi.org/10.1145/1242572.1242643, with two dimensions for one. Clicks alone determine the
products, so theta is known up to a factor; with recorded gaze both are known.
"""

# Shape legend: S pages seen, R rows, C columns, K kinds of items.

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_rerank.evaluation.clicks.pages import Bools, Floats, Pages, clipped, share


class _Counts(NamedTuple):
    shown: Floats
    """[K, R, C], how often a kind stood at a place."""
    clicked: Floats
    """[K, R, C]."""


@dataclass(frozen=True)
class PositionModel:
    """Examination by row and column, and attractiveness by kind."""

    theta: Floats
    """[R, C], probability that a place is examined."""
    alpha: Floats
    """[K], probability that an item is clicked that is examined."""

    @property
    def relative_theta(self) -> Floats:
        """Examination in comparison with the place that is examined most, which clicks alone determine: [R, C]."""
        return self.theta / self.theta.max()

    def examinations(self, pages: Pages) -> Floats:
        return np.broadcast_to(self.theta, pages.kinds.shape)

    def click_probabilities(self, pages: Pages) -> Floats:
        return self.theta * self.alpha[pages.kinds]

    def log_likelihoods(self, pages: Pages) -> Floats:
        chance = clipped(self.click_probabilities(pages))
        return np.log(np.where(pages.clicked, chance, 1 - chance)).sum(axis=(1, 2))

    def simulate(self, kinds: NDArray[np.int64], rng: np.random.Generator) -> Pages:
        """Draw what people examine and click on pages of these [S, R, C] kinds."""
        examined = rng.random(kinds.shape) < self.theta
        return Pages(kinds, examined & (rng.random(kinds.shape) < self.alpha[kinds]), examined)


def fit(pages: Pages, *, iterations: int = 2000, tolerance: float = 1e-7) -> PositionModel:
    """Fit to clicks alone by expectation maximisation.

    Args:
        tolerance: the largest change of a parameter at which it ends.
    """
    counts = _counts(pages)
    theta, alpha = np.full(pages.kinds.shape[1:], 0.5), np.full(pages.num_kinds, 0.5)
    skipped = counts.shown - counts.clicked
    for _ in range(iterations):
        weight = alpha[:, None, None]
        unclicked = skipped / clipped(1 - theta * weight)
        examined = counts.clicked + unclicked * theta * (1 - weight)
        attracted = counts.clicked + unclicked * weight * (1 - theta)
        new_theta = share(examined.sum(axis=0), counts.shown.sum(axis=0))
        new_alpha = share(attracted.sum(axis=(1, 2)), counts.shown.sum(axis=(1, 2)))
        change = max(np.abs(new_theta - theta).max(), np.abs(new_alpha - alpha).max())
        theta, alpha = new_theta, new_alpha
        if change < tolerance:
            break
    return PositionModel(theta, alpha)


def fit_observed(pages: Pages) -> PositionModel:
    """Fit to clicks and recorded gaze, by counting. A clicked item counts as examined, whatever the gaze says.

    Raises:
        ValueError: if no gaze was recorded.
    """
    if pages.examined is None:
        raise ValueError("the pages have no recorded gaze; fit to clicks alone instead")
    examined: Bools = pages.examined | pages.clicked
    trials = np.bincount(pages.kinds[examined], minlength=pages.num_kinds).astype(np.float64)
    clicks = np.bincount(pages.kinds[pages.clicked], minlength=pages.num_kinds).astype(np.float64)
    seen = np.full(pages.kinds.shape[1:], float(len(pages.kinds)))
    return PositionModel(share(examined.sum(axis=0, dtype=np.float64), seen), share(clicks, trials))


def _counts(pages: Pages) -> _Counts:
    one_hot = pages.kinds[None] == np.arange(pages.num_kinds)[:, None, None, None]
    return _Counts(one_hot.sum(axis=1).astype(np.float64), (one_hot & pages.clicked).sum(axis=1).astype(np.float64))
