"""Measures of an order against another order.

Both come as scores, docid -> score, and equal scores on either side count as the mean over their orders. For an order
without ties give `by_place(docids)`.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, combinations

from rl_rerank.metrics.ties import tied_groups


def by_place(docids: Sequence[str]) -> dict[str, float]:
    """Scores that give this order: n, n - 1, ..., 1."""
    return dict(zip(docids, falling(len(docids)), strict=True))


@cache
def falling(n: int) -> tuple[float, ...]:
    """n, n - 1, ..., 1."""
    return tuple(float(n - place) for place in range(n))


def overlaps(scores: Mapping[str, float], gold: Mapping[str, float]) -> list[float]:
    """The expected number of documents common to the first d of both orders, for d = 1, 2, ...

    Raises:
        ValueError: if the two orders are not of the same documents.
    """
    if scores.keys() != gold.keys():
        odd = sorted(scores.keys() ^ gold.keys())
        raise ValueError(f"two orders must be of the same documents; {odd[0]!r} is in one of them only")
    ours, theirs = tied_groups(scores), tied_groups(gold)
    if len(ours) == len(theirs) == len(scores):
        return _common([d for (d,) in ours], [d for (d,) in theirs])
    return [sum(a * b for a, b in zip(x, y, strict=True)) for x, y in zip(_held(ours), _held(theirs), strict=True)]


def average_overlap(scores: Mapping[str, float], gold: Mapping[str, float], *, k: int | None = None) -> float:
    """Mean over the depths d = 1..k of the share of documents common to the first d of both orders.

    Args:
        k: deepest depth; None: all documents.

    Returns:
        A value in [0, 1]; 0.0 for no documents.

    Source: Fagin, Kumar & Sivakumar 2003, https://doi.org/10.1137/S0895480102412856. It is what the package `rbo` 0.1.3
    computes by default, p = 1.
    """
    common = overlaps(scores, gold)[:k]
    return sum(x / d for d, x in enumerate(common, start=1)) / len(common) if common else 0.0


def rbo(scores: Mapping[str, float], gold: Mapping[str, float], *, p: float = 0.9, extrapolate: bool = False) -> float:
    """Rank-biased overlap: depth d weighs (1 - p) p^(d-1).

    Args:
        p: persistence, 0 < p < 1: the smaller, the more the first ranks weigh. p = 1 is `average_overlap`.
        extrapolate: assume that the last overlap goes on for ever (RBO_ext); otherwise the sum ends with the lists, and
            two identical lists of n give 1 - p^n.

    Returns:
        A value in [0, 1]; 0.0 for no documents.

    Source: Webber, Moffat & Zobel 2010, https://doi.org/10.1145/1852102.1852106.
    """
    if not 0 < p < 1:
        raise ValueError(f"p must be between 0 and 1, both excluded; p = 1 is average overlap; got {p}")
    shares = [x / d for d, x in enumerate(overlaps(scores, gold), start=1)]
    truncated = (1 - p) * sum(share * p**place for place, share in enumerate(shares))
    return truncated + shares[-1] * p ** len(shares) if extrapolate and shares else truncated


def pairwise_agreement(scores: Mapping[str, float], gold: Mapping[str, float]) -> float:
    """Share of the pairs with different gold scores that the order puts the same way round; a tie counts half.

    Returns:
        A value in [0, 1]; 0.5 where gold orders no two documents.
    """
    agreed = [
        0.5 + 0.5 * _sign(scores[a] - scores[b]) * _sign(gold[a] - gold[b])
        for a, b in combinations(scores, 2)
        if gold[a] != gold[b]
    ]
    return sum(agreed) / len(agreed) if agreed else 0.5


def kendall_tau(scores: Mapping[str, float], gold: Mapping[str, float]) -> float:
    """(concordant - discordant) / pairs with different gold scores, in [-1, 1]; ties of `scores` count 0.

    Source: Kendall 1938, https://doi.org/10.1093/biomet/30.1-2.81; equal to tau-a without ties.
    """
    return 2 * pairwise_agreement(scores, gold) - 1


def _common(ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
    """Overlaps of two orders without ties: a document is common from the deeper of its two ranks on."""
    places = dict(zip(theirs, range(len(theirs)), strict=True))
    joins = [0] * len(ours)
    for place, other in enumerate(map(places.__getitem__, ours)):
        joins[place if place > other else other] += 1
    return [float(count) for count in accumulate(joins)]


def _held(groups: Sequence[Sequence[str]]) -> Iterator[list[float]]:
    """For every depth the probability of each document, in the order of their names, to stand above it."""
    held = dict.fromkeys(sorted(docid for group in groups for docid in group), 0.0)
    for group in groups:
        for place in range(1, len(group) + 1):
            held.update(dict.fromkeys(group, place / len(group)))
            yield list(held.values())


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)
