"""Measures of finding everything, as in screening for systematic reviews.

The definitions are those of CLEF TAR's evaluation script of 2018. A document is relevant from grade 1 on.
"""

from __future__ import annotations

from collections.abc import Mapping

from rl_rerank.metrics.ties import expected_gains, tied_groups


def norm_area(scores: Mapping[str, float], qrels: Mapping[str, int]) -> float:
    """Area under the curve of relevant documents found, over that of a perfect order.

    sum over ranks of (found before + rel / 2) / (R N - R^2 / 2) for R relevant of N documents; in [0, 1], 1 for a
    perfect order, in expectation over the orders of equal scores; 0.0 if none of the N is relevant.
    """
    relevant = {docid: 1.0 for docid in scores if qrels.get(docid, 0) >= 1}
    n, r = len(scores), len(relevant)
    area = found = 0.0
    for gain in expected_gains(tied_groups(scores), relevant):
        area += found + gain / 2
        found += gain
    return area / (r * n - r * r / 2) if r else 0.0


def wss(scores: Mapping[str, float], qrels: Mapping[str, int], *, recall: float = 0.95) -> float:
    """Work saved over sampling: the share of documents behind the rank that reaches `recall`, less 1 - recall.

    (N - last) / N - (1 - recall), where `last` is the rank of relevant document number round(recall * R), halves to
    even. Among equal scores relevant documents stand last. In [recall - 1, recall); 0.0 if none is relevant.
    """
    wanted = round(recall * sum(1 for docid in scores if qrels.get(docid, 0) >= 1))
    if not wanted:
        return 0.0
    order = sorted(scores, key=lambda docid: (-scores[docid], qrels.get(docid, 0) >= 1))
    places = [rank for rank, docid in enumerate(order, start=1) if qrels.get(docid, 0) >= 1]
    return (len(order) - places[wanted - 1]) / len(order) - (1 - recall)
