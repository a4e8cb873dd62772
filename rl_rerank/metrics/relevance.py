"""Measures of an order against graded labels. Without ties their values equal trec_eval's.

Orders come as lists of docids, best first, or as scores; equal scores then count as the mean over their orders. A
document is relevant from grade 1 on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from operator import mul

from rl_rerank.metrics.ties import expected_gains, tied_groups

GAINS = ("linear", "exponential")


@cache
def discounts(n: int) -> tuple[float, ...]:
    """1 / log2(rank + 1) for the ranks 1..n."""
    return tuple(1 / math.log2(rank + 1) for rank in range(1, n + 1))


def dcg(gains: Sequence[float]) -> float:
    """Discounted cumulative gain: sum of gain_i / log2(i + 1), ranks from 1."""
    return sum(map(mul, gains, discounts(len(gains))))


def gain(grade: int, kind: str = "linear") -> float:
    """What a document of this grade gains: the grade itself, or 2^grade - 1; grades below 0 gain 0.

    Raises:
        ValueError: for another kind than those of `GAINS`.
    """
    if kind not in GAINS:
        raise ValueError(f"gain must be one of {', '.join(GAINS)}; got {kind!r}")
    positive = max(grade, 0)
    return float(positive if kind == "linear" else 2**positive - 1)


def ndcg(docids: Sequence[str], qrels: Mapping[str, int], *, k: int, gain: str = "linear") -> float:
    """nDCG@k, by default as trec_eval's `ndcg_cut_k`.

    Args:
        docids: ranked docids, best first. Shorter than `k` is allowed.
        qrels: docid -> graded relevance of this query. Unjudged docids and negative grades gain 0.
        k: cutoff, >= 1.
        gain: `linear` (the grade) or `exponential` (2^grade - 1).

    Returns:
        A value in [0, 1]; 0.0 if no docid in `qrels` is relevant. The ideal list is drawn from all of `qrels`: pass
        the window's qrels for the window's ideal.

    Raises:
        ValueError: if `k` is below 1 or `docids` repeats a docid.

    Source: Jarvelin & Kekalainen 2002, https://doi.org/10.1145/582415.582418; exponential gains: Burges et al. 2005,
    https://doi.org/10.1145/1102351.1102363
    """
    _check(docids, k)
    return _ndcg([[docid] for docid in docids], qrels, k, gain)


def expected_ndcg(scores: Mapping[str, float], qrels: Mapping[str, int], *, k: int, gain: str = "linear") -> float:
    """nDCG@k of the order by `scores`, in expectation over the orders of equal scores.

    Each document of a tied group gets the group's mean gain. Without ties it equals `ndcg`. The ideal is drawn from all
    of `qrels`.

    Source: McSherry & Najork 2008, https://doi.org/10.1007/978-3-540-78646-7_38
    """
    check_cutoff(k)
    return _ndcg(tied_groups(scores), qrels, k, gain)


def recall(docids: Sequence[str], qrels: Mapping[str, int], *, k: int) -> float:
    """Share of the relevant docids (grade >= 1) of `qrels` that stand in the first `k`; 0.0 if none is relevant."""
    _check(docids, k)
    relevant = {d for d, grade in qrels.items() if grade >= 1}
    return len(relevant.intersection(docids[:k])) / len(relevant) if relevant else 0.0


def expected_recall(scores: Mapping[str, float], qrels: Mapping[str, int], *, k: int) -> float:
    """Recall@k of the order by `scores`, in expectation over the orders of equal scores."""
    check_cutoff(k)
    binary = _binary(qrels)
    return sum(expected_gains(tied_groups(scores)[:k], binary)[:k]) / len(binary) if binary else 0.0


def reciprocal_rank(docids: Sequence[str], qrels: Mapping[str, int], *, k: int | None = None) -> float:
    """1 / rank of the first relevant docid, 0.0 where there is none in the first `k` (None: all).

    Raises:
        ValueError: if `k` is below 1 or `docids` repeats a docid.

    Source: Voorhees 1999, the TREC-8 question answering track.
    """
    _check(docids, 1 if k is None else k)
    return next((1 / rank for rank, d in enumerate(docids[:k], start=1) if qrels.get(d, 0) >= 1), 0.0)


def expected_reciprocal_rank(scores: Mapping[str, float], qrels: Mapping[str, int], *, k: int | None = None) -> float:
    """Reciprocal rank of the order by `scores`, in expectation over the orders of equal scores.

    With r of t tied documents relevant, the first of them stands at place j of the tie with the probability
    C(t - j, r - 1) / C(t, r).
    """
    check_cutoff(1 if k is None else k)
    ahead = 0
    for group in tied_groups(scores):
        tied, relevant = len(group), sum(1 for docid in group if qrels.get(docid, 0) >= 1)
        if relevant:
            last = min(tied - relevant + 1, len(scores) if k is None else k - ahead)
            ways = (math.comb(tied - j, relevant - 1) / (ahead + j) for j in range(1, last + 1))
            return sum(ways) / math.comb(tied, relevant)
        ahead += tied
    return 0.0


def average_precision(docids: Sequence[str], qrels: Mapping[str, int]) -> float:
    """Mean over the relevant docids of `qrels` of the precision at their ranks; 0.0 if none is relevant.

    Raises:
        ValueError: if `docids` repeats a docid.

    Source: trec_eval's `map`.
    """
    _check(docids, 1)
    return _average_precision([[docid] for docid in docids], qrels)


def expected_average_precision(scores: Mapping[str, float], qrels: Mapping[str, int]) -> float:
    """Average precision of the order by `scores`, in expectation over the orders of equal scores.

    Source: McSherry & Najork 2008, https://doi.org/10.1007/978-3-540-78646-7_38
    """
    return _average_precision(tied_groups(scores), qrels)


def reciprocal_power(docids: Sequence[str], qrels: Mapping[str, int], *, exponent: float) -> float:
    """Sum of 1 / rank^a over the relevant docids, over that of a perfect order; 0.0 if none is relevant.

    Args:
        docids: best first. A repeated docid counts once, at its first rank, and holds its further ranks.
        exponent: a, above 0. Of a = 3 nearly all is in rank 1: rank 2 gives 1/8, rank 3 1/27.

    Source: the result reward of MM-R5, https://arxiv.org/abs/2506.12364, with a = 3.
    """
    first = {docid: rank for rank, docid in reversed(list(enumerate(docids, start=1)))}
    relevant = [docid for docid, grade in qrels.items() if grade >= 1]
    ideal = sum(rank**-exponent for rank in range(1, len(relevant) + 1))
    return sum(first[d] ** -exponent for d in relevant if d in first) / ideal if relevant else 0.0


def expected_reciprocal_power(scores: Mapping[str, float], qrels: Mapping[str, int], *, exponent: float) -> float:
    """Reciprocal power of the order by `scores`, in expectation over the orders of equal scores."""
    binary = _binary(qrels)
    gains = expected_gains(tied_groups(scores), binary)
    ideal = sum(rank**-exponent for rank in range(1, len(binary) + 1))
    return sum(gain * rank**-exponent for rank, gain in enumerate(gains, start=1)) / ideal if binary else 0.0


def check_cutoff(k: int) -> None:
    """Refuse a cutoff below 1."""
    if k < 1:
        raise ValueError(f"k must be >= 1; got {k}")


def _ndcg(groups: Sequence[Sequence[str]], qrels: Mapping[str, int], k: int, kind: str) -> float:
    if kind not in GAINS:
        raise ValueError(f"gain must be one of {', '.join(GAINS)}; got {kind!r}")
    gains = {d: gain(grade, kind) for d, grade in qrels.items() if grade > 0}
    if not gains:
        return 0.0
    return dcg(expected_gains(groups[:k], gains)[:k]) / dcg(sorted(gains.values(), reverse=True)[:k])


def _average_precision(groups: Sequence[Sequence[str]], qrels: Mapping[str, int]) -> float:
    """The expected precision at place j of a tie of t documents, r of them relevant, if a relevant one stands there:
    those ahead of the tie, itself, and its share (j - 1)(r - 1)/(t - 1) of the places before it."""
    summed, ahead, found = 0.0, 0, 0
    for group in groups:
        tied, relevant = len(group), sum(1 for docid in group if qrels.get(docid, 0) >= 1)
        if relevant:
            before = (relevant - 1) / (tied - 1) if tied > 1 else 0.0
            precisions = ((found + 1 + (j - 1) * before) / (ahead + j) for j in range(1, tied + 1))
            summed += relevant / tied * sum(precisions)
        ahead, found = ahead + tied, found + relevant
    total = sum(1 for grade in qrels.values() if grade >= 1)
    return summed / total if total else 0.0


def _binary(qrels: Mapping[str, int]) -> dict[str, float]:
    return {docid: 1.0 for docid, grade in qrels.items() if grade >= 1}


def _check(docids: Sequence[str], k: int) -> None:
    check_cutoff(k)
    if len(set(docids)) != len(docids):
        raise ValueError("docids must not repeat: a repeated docid would be counted twice")
