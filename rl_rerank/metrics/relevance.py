"""Measures of an order against graded labels. Without ties their values equal trec_eval's.

An order is a list of docids, best first, or scores; the value is then the mean over the orders of equal scores. A
document is relevant from grade 1 on. The ideal order is of all qrels: give a window's qrels for a window's ideal.

Ties: McSherry & Najork 2008, https://doi.org/10.1007/978-3-540-78646-7_38
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from operator import mul
from typing import TypeVar

from rl_rerank.metrics.ties import Order, expected_gains, groups

K = TypeVar("K")

GAINS = ("linear", "exponential")


@cache
def discounts(n: int) -> tuple[float, ...]:
    """1 / log2(rank + 1) for the ranks 1..n."""
    return tuple(1 / math.log2(rank + 1) for rank in range(1, n + 1))


def dcg(gains: Sequence[float]) -> float:
    """Discounted cumulative gain: sum of gain_i / log2(i + 1), ranks from 1."""
    return sum(map(mul, gains, discounts(len(gains))))


def gains(grades: Mapping[K, int], kind: str = "linear") -> dict[K, float]:
    """What the relevant documents gain: the grade itself, or 2^grade - 1.

    Raises:
        ValueError: for another kind than those of `GAINS`.
    """
    if kind not in GAINS:
        raise ValueError(f"gain must be one of {', '.join(GAINS)}; got {kind!r}")
    return {d: float(grade if kind == "linear" else 2**grade - 1) for d, grade in grades.items() if grade > 0}


def ideal_dcg(gains: Mapping[K, float], k: int) -> float:
    """DCG@k of the best order."""
    return dcg(sorted(gains.values(), reverse=True)[:k])


def ndcg(order: Order, qrels: Mapping[str, int], *, k: int, gain: str = "linear") -> float:
    """nDCG@k, by default as trec_eval's `ndcg_cut_k`; 0.0 if nothing is relevant.

    Args:
        order: may be shorter than `k`.
        gain: `linear` (the grade) or `exponential` (2^grade - 1).

    Raises:
        ValueError: if `k` is below 1 or `order` repeats a docid.

    Source: Jarvelin & Kekalainen 2002, https://doi.org/10.1145/582415.582418; exponential gains: Burges et al. 2005,
    https://doi.org/10.1145/1102351.1102363
    """
    check_cutoff(k)
    gained, ordered = gains(qrels, gain), groups(order)
    return dcg(expected_gains(ordered[:k], gained)[:k]) / ideal_dcg(gained, k) if gained else 0.0


def recall(order: Order, qrels: Mapping[str, int], *, k: int) -> float:
    """Share of the relevant docids of `qrels` that stand in the first `k`; 0.0 if none is relevant."""
    check_cutoff(k)
    binary, ordered = _binary(qrels), groups(order)
    return sum(expected_gains(ordered[:k], binary)[:k]) / len(binary) if binary else 0.0


def reciprocal_rank(order: Order, qrels: Mapping[str, int], *, k: int | None = None) -> float:
    """1 / rank of the first relevant docid, 0.0 where there is none in the first `k` (None: all).

    With r of t tied documents relevant, the first of them stands at place j of the tie with the probability
    C(t - j, r - 1) / C(t, r).

    Source: Voorhees 1999, the TREC-8 question answering track.
    """
    check_cutoff(1 if k is None else k)
    ahead = 0
    for group in groups(order):
        tied, relevant = len(group), sum(1 for docid in group if qrels.get(docid, 0) >= 1)
        if relevant:
            last = min(tied - relevant + 1, len(order) if k is None else k - ahead)
            ways = (math.comb(tied - j, relevant - 1) / (ahead + j) for j in range(1, last + 1))
            return sum(ways) / math.comb(tied, relevant)
        ahead += tied
    return 0.0


def average_precision(order: Order, qrels: Mapping[str, int]) -> float:
    """Mean over the relevant docids of `qrels` of the precision at their ranks; 0.0 if none is relevant.

    The precision expected at place j of a tie of t documents, r of them relevant, if a relevant one stands there,
    counts those ahead of the tie, itself, and its share (j - 1)(r - 1)/(t - 1) of the places before it.

    Source: trec_eval's `map`.
    """
    summed, ahead, found = 0.0, 0, 0
    for group in groups(order):
        tied, relevant = len(group), sum(1 for docid in group if qrels.get(docid, 0) >= 1)
        if relevant:
            before = (relevant - 1) / (tied - 1) if tied > 1 else 0.0
            precisions = ((found + 1 + (j - 1) * before) / (ahead + j) for j in range(1, tied + 1))
            summed += relevant / tied * sum(precisions)
        ahead, found = ahead + tied, found + relevant
    return summed / (len(_binary(qrels)) or 1)


def reciprocal_power(order: Order, qrels: Mapping[str, int], *, exponent: float) -> float:
    """Sum of 1 / rank^a over the relevant docids, over that of a perfect order; 0.0 if none is relevant.

    Args:
        order: a docid that a list repeats counts once, at its first rank, and keeps its further ranks from others.
        exponent: a, above 0. Of a = 3 nearly all is in rank 1: rank 2 gives 1/8, rank 3 1/27.

    Source: the result reward of MM-R5, https://arxiv.org/abs/2506.12364, with a = 3.
    """
    binary = _binary(qrels)
    ideal = sum(rank**-exponent for rank in range(1, len(binary) + 1))
    if isinstance(order, Mapping):
        found = expected_gains(groups(order), binary)
    else:
        found = [binary.pop(docid, 0.0) for docid in order]
    return sum(gain * rank**-exponent for rank, gain in enumerate(found, start=1)) / (ideal or 1.0)


def check_cutoff(k: int) -> None:
    """Refuse a cutoff below 1."""
    if k < 1:
        raise ValueError(f"k must be >= 1; got {k}")


def _binary(qrels: Mapping[str, int]) -> dict[str, float]:
    return {docid: 1.0 for docid, grade in qrels.items() if grade >= 1}
