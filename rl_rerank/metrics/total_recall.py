"""Measures of finding everything, as in screening for systematic reviews.

`N` is the number of documents, judged or ranked, and `R` the number of relevant ones, whose grade is at least `rel`.
Without a relevant document every measure is 0.0.

Source: CLEF TAR 2018, https://github.com/CLEF-TAR/tar (eval_measures_2018). Screening tools define WSS in other ways.
"""

from collections.abc import Mapping

from rl_rerank.metrics.ties import Order, expected_gains, groups


def norm_area(order: Order, qrels: Mapping[str, int], *, rel: int = 1) -> float:
    """Area under the curve of found documents over ranks, by trapezoids, as a share of the largest possible one.

    A value in [0, 1], in expectation over the orders of equal scores.
    """
    relevant = {docid: 1.0 for docid, grade in qrels.items() if grade >= rel}
    n, r = len(qrels.keys() | set(order)), len(relevant)
    # A document found at a rank counts half there and whole at every rank behind it.
    gains = enumerate(expected_gains(groups(order), relevant), start=1)
    return sum((n - rank + 0.5) * gain for rank, gain in gains) / (r * n - r * r / 2) if r else 0.0


def wss(order: Order, qrels: Mapping[str, int], *, recall: float = 0.95, rel: int = 1) -> float:
    """Work saved over sampling: the share of documents behind the rank that reaches `recall`, less 1 - recall.

    That rank finds round(recall R) relevant documents, halves rounded to even; an order that never does is worth 0. Of
    equal scores the relevant documents stand last.
    """
    ranks, r, n = found(order, qrels, rel)
    wanted = round(recall * r)
    if not r or wanted > len(ranks):
        return 0.0
    return (n - [0, *ranks][wanted]) / n - (1 - recall)


def found(order: Order, qrels: Mapping[str, int], rel: int) -> tuple[list[int], int, int]:
    """The ranks of the relevant documents, the last ones of their equals; R; N."""
    relevant = {docid for docid, grade in qrels.items() if grade >= rel}
    ranked = [docid for group in groups(order) for docid in sorted(group, key=relevant.__contains__)]
    ranks = [rank for rank, docid in enumerate(ranked, start=1) if docid in relevant]
    return ranks, len(relevant), len(qrels.keys() | set(ranked))
