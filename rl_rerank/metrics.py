"""Ranking measures as pure functions, used alike by rewards and tests. Values equal trec_eval's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def dcg(gains: Sequence[float]) -> float:
    """Discounted cumulative gain: sum of gain_i / log2(i + 1), ranks from 1."""
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def ndcg(docids: Sequence[str], qrels: Mapping[str, int], *, k: int) -> float:
    """nDCG@k with linear gains, as trec_eval's `ndcg_cut_k`.

    Args:
        docids: ranked docids, best first. Shorter than `k` is allowed.
        qrels: docid -> graded relevance of this query. Unjudged docids and negative grades gain 0.
        k: cutoff, >= 1.

    Returns:
        A value in [0, 1]; 0.0 if no docid in `qrels` is relevant. The ideal list is drawn from all of `qrels`: pass
        the window's qrels for the window's ideal.

    Raises:
        ValueError: if `k` is below 1 or `docids` repeats a docid.

    Source: Jarvelin & Kekalainen 2002, https://doi.org/10.1145/582415.582418
    """
    _check(docids, k)
    ideal = dcg(sorted((max(g, 0) for g in qrels.values()), reverse=True)[:k])
    if ideal == 0:
        return 0.0
    return dcg([max(qrels.get(d, 0), 0) for d in docids[:k]]) / ideal


def expected_ndcg(scores: Mapping[str, float], qrels: Mapping[str, int], *, k: int) -> float:
    """nDCG@k of the order by `scores`, in expectation over the orders of equal scores.

    Each document of a tied group gets the group's mean gain. Without ties it equals `ndcg`. The ideal is drawn from all
    of `qrels`.

    Source: McSherry & Najork 2008, https://doi.org/10.1007/978-3-540-78646-7_38
    """
    return ndcg_of_gains(_expected_gains(scores, qrels), qrels, k=k)


def ndcg_of_gains(gains: Sequence[float], qrels: Mapping[str, int], *, k: int) -> float:
    """DCG@k of `gains` in rank order over the ideal DCG@k of `qrels`; 0.0 where nothing is relevant."""
    if k < 1:
        raise ValueError(f"k must be >= 1; got {k}")
    ideal = dcg(sorted((max(g, 0) for g in qrels.values()), reverse=True)[:k])
    return dcg(gains[:k]) / ideal if ideal else 0.0


def recall(docids: Sequence[str], qrels: Mapping[str, int], *, k: int) -> float:
    """Share of the relevant docids (grade >= 1) of `qrels` that stand in the first `k`; 0.0 if none is relevant."""
    _check(docids, k)
    relevant = {d for d, grade in qrels.items() if grade >= 1}
    return len(relevant.intersection(docids[:k])) / len(relevant) if relevant else 0.0


def expected_recall(scores: Mapping[str, float], qrels: Mapping[str, int], *, k: int) -> float:
    """Recall@k of the order by `scores`, in expectation over the orders of equal scores."""
    relevant = sum(1 for grade in qrels.values() if grade >= 1)
    binary = {d: int(grade >= 1) for d, grade in qrels.items()}
    return sum(_expected_gains(scores, binary)[:k]) / relevant if relevant else 0.0


def _expected_gains(scores: Mapping[str, float], qrels: Mapping[str, int]) -> list[float]:
    gains: list[float] = []
    by_score: dict[float, list[str]] = {}
    for docid, score in scores.items():
        by_score.setdefault(score, []).append(docid)
    for score in sorted(by_score, reverse=True):
        tied = by_score[score]
        mean = sum(max(qrels.get(d, 0), 0) for d in tied) / len(tied)
        gains.extend([mean] * len(tied))
    return gains


def _check(docids: Sequence[str], k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be >= 1; got {k}")
    if len(set(docids)) != len(docids):
        raise ValueError("docids must not repeat: a repeated docid would be counted twice")
