"""Carousel pages that people saw, as arrays, and how well a click model explains what they clicked."""

# Shape legend: S pages seen, R rows (carousels), C columns, K kinds of items.

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SMALLEST = 1e-9
"""Probabilities are clipped to this distance from 0 and 1 before a logarithm."""


@dataclass(frozen=True)
class Pages:
    """Pages of the same layout, each seen by one person once.

    A click model cannot learn the attractiveness of an item that one person saw at one place. Items are therefore
    counted by kind, such as the person's rating of the item's genre, which stands at many places.
    """

    kinds: NDArray[np.int64]
    """[S, R, C], from 0."""
    clicked: Bools
    """[S, R, C]."""
    examined: Bools | None = None
    """[S, R, C], where gaze was recorded; None: it was not."""

    def __post_init__(self) -> None:
        if self.kinds.ndim != 3 or not self.kinds.size:
            raise ValueError(f"kinds must be [pages, rows, columns], each at least 1; got {list(self.kinds.shape)}")
        if self.kinds.min() < 0:
            raise ValueError(f"kinds must be numbers from 0; got {self.kinds.min()}")
        for name, value in (("clicked", self.clicked), ("examined", self.examined)):
            if value is not None and value.shape != self.kinds.shape:
                raise ValueError(f"{name} must have the shape of kinds, {list(self.kinds.shape)}; got {value.shape}")

    @property
    def num_kinds(self) -> int:
        """K: the highest kind, plus 1."""
        return int(self.kinds.max()) + 1


class ClickModel(Protocol):
    """What people examine on a carousel page, and what they click."""

    def log_likelihoods(self, pages: Pages) -> Floats:
        """Compute the natural log-probability of each page's clicks: [S]."""
        ...

    def examinations(self, pages: Pages) -> Floats:
        """Compute the probability that each item is examined, before anything is known of clicks: [S, R, C]."""
        ...

    def click_probabilities(self, pages: Pages) -> Floats:
        """Compute the probability that each item is clicked, before anything is known of other clicks: [S, R, C]."""
        ...


def log_likelihood(model: ClickModel, pages: Pages) -> float:
    """Compute the mean natural log-probability of a page's clicks; higher is better, 0 is the highest."""
    return float(model.log_likelihoods(pages).mean())


def perplexity(model: ClickModel, pages: Pages) -> float:
    """Compute the mean over places of 2 to the mean surprise of clicks there, in bits; 1 is the best, 2 a coin.

    Source: Dupret & Piwowarski 2008, https://doi.org/10.1145/1390334.1390392, of ranks; here of rows and columns.
    """
    chance = clipped(model.click_probabilities(pages))
    bits = -np.log2(np.where(pages.clicked, chance, 1 - chance))
    return float(np.exp2(bits.mean(axis=0)).mean())


def clipped(values: Floats) -> Floats:
    """Keep probabilities off 0 and 1, whose logarithms are not finite."""
    return np.clip(values, SMALLEST, 1 - SMALLEST)


def share(successes: Floats, trials: Floats) -> Floats:
    """Estimate probabilities after Laplace, (successes + 1) / (trials + 2), so that no held-out click is impossible."""
    return (successes + 1) / (trials + 2)
