"""SNIPS: the value of a ranking by clicks on another one: self-normalised inverse propensity scoring, with variance.

A ranking's value is the mean over relevant documents of what their rank is worth, 1 / log2(rank + 1). Of relevant
documents only those that were examined are clicked, so each click counts one over the probability that its place was
examined, and the sum of these weights takes the place of the number of relevant documents: a ratio estimator, whose
value always lies between the least and the most that a rank is worth. Swaminathan & Joachims 2015, The Self-Normalized
Estimator for Counterfactual Learning, NeurIPS; clicks as in Joachims et al. 2017, https://arxiv.org/abs/1608.04468.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""


class Estimate(NamedTuple):
    """A mean, and how sure it is."""

    value: float
    variance: float
    """Of the value, over visits."""
    num_visits: int
    """Visits with a click; others say nothing of the ratio."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval, by the normal distribution."""
        half = Z * math.sqrt(self.variance)
        return self.value - half, self.value + half


class Visit(NamedTuple):
    """One ranking, and the clicks on what was shown instead."""

    docids: Sequence[str]
    """As ranked, best first."""
    weights: Mapping[str, float]
    """Clicked docid -> one over the probability that its place was examined."""


def weight(propensity: float, floor: float) -> float:
    """Compute a click's weight, 1 / max(propensity, floor): clipping trades variance for bias."""
    if not 0 <= propensity <= 1 or not 0 < floor <= 1:
        raise ValueError(
            f"propensity must be from 0 to 1, and floor above 0 and at most 1; got {propensity!r} and {floor!r}"
        )
    return 1 / max(propensity, floor)


def snips(visits: Iterable[Visit]) -> Estimate:
    """Estimate the mean worth of the rank of a relevant document.

    Raises:
        ValueError: if there are fewer than two visits with a click, or a clicked document was not ranked.
    """
    return _ratio([_sums(visit) for visit in visits])


def difference(system: Sequence[Visit], baseline: Sequence[Visit]) -> Estimate:
    """Estimate `snips(system)` - `snips(baseline)` on the same visits, in the same order.

    Both have the same weights, so that the variance is that of paired visits.

    Raises:
        ValueError: as `snips`, and if the visits differ in their weights.
    """
    pairs = list(zip(system, baseline, strict=True))
    for number, (one, other) in enumerate(pairs):
        if one.weights != other.weights:
            raise ValueError(f"visit {number} has other clicks or weights in the system than in the baseline")
    sums = [(_sums(one), _sums(other)) for one, other in pairs]
    return _ratio([(ours[0] - theirs[0], ours[1]) for ours, theirs in sums])


def _sums(visit: Visit) -> tuple[float, float]:
    """The weighted worth of the clicked documents' ranks, and the sum of weights."""
    ranks = {docid: rank for rank, docid in enumerate(visit.docids, start=1)}
    if missing := [docid for docid in visit.weights if docid not in ranks]:
        raise ValueError(f"docid {missing[0]!r} was clicked and is not ranked")
    worth = math.fsum(w / math.log2(ranks[docid] + 1) for docid, w in visit.weights.items())
    return worth, math.fsum(visit.weights.values())


def _ratio(sums: Sequence[tuple[float, float]]) -> Estimate:
    """Divide sums over visits; the variance is the delta method's, with visits as the independent units."""
    clicked = np.array([(worth, total) for worth, total in sums if total > 0], dtype=np.float64).reshape(-1, 2)
    n = len(clicked)
    if n < 2:
        raise ValueError(f"an estimate needs at least two visits with a click; got {n}")
    worth, total = clicked.T
    value = worth.sum() / total.sum()
    # A visit without a click adds nothing to either sum, and nothing to the variance.
    residuals = worth - value * total
    return Estimate(float(value), float(n / (n - 1) * (residuals**2).sum() / total.sum() ** 2), n)
