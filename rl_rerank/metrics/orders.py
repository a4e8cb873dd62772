"""nDCG, recall and overlap of many orders of the same documents: what they share is computed once.

Documents are numbers from 1 to n here, and an order is all of them, best first. Each of the three is a sum over the
documents of what one adds at its place, and up to rounding it equals `ndcg`, `recall`, and `average_overlap` or `rbo`.
"""

from collections.abc import Sequence
from functools import cache

from rl_rerank.metrics.relevance import check_cutoff, discounts, gains, ideal_dcg


class Orders:
    """Three measures of orders of n documents.

    Args:
        grades: of the documents 1..n; ideals are drawn from them.
        gold: scores of the documents 1..n in a gold order; equal ones count as the mean over their orders.
        k: cutoff of nDCG.
        recall_k: cutoff of recall.
        p: persistence of the rank-biased overlap, truncated at n; 1: average overlap.
    """

    def __init__(self, grades: Sequence[int], gold: Sequence[float], *, k: int, recall_k: int, p: float = 1.0) -> None:
        check_cutoff(k)
        check_cutoff(recall_k)
        gained = gains(dict(enumerate(grades, start=1)))
        ideal = ideal_dcg(gained, k)
        self.shares = [(document, gain / ideal) for document, gain in gained.items()]
        """Of the relevant documents, in the ideal DCG."""
        self.discounts = _discounts(len(grades), k)
        self.recall_k = recall_k
        self.overlaps = _overlaps(gold, p)

    def __call__(self, order: Sequence[int]) -> tuple[float, float, float]:
        """nDCG@k and recall@recall_k, 0.0 if nothing is relevant, and the overlap."""
        overlaps, discounts, recall_k = self.overlaps, self.discounts, self.recall_k
        overlap = sum([overlaps[document][place] for place, document in enumerate(order)])
        found, ndcg = 0, 0.0
        for document, share in self.shares:
            place = order.index(document)
            ndcg += share * discounts[place]
            found += place < recall_k
        return ndcg, found / len(self.shares) if found else 0.0, overlap


@cache
def _discounts(n: int, k: int) -> tuple[float, ...]:
    return (*discounts(min(k, n)), *[0.0] * (n - k))


def _overlaps(gold: Sequence[float], p: float) -> list[Sequence[float]]:
    """For each document from 1 on what it adds to the overlap by its place in an order."""
    n = len(gold)
    places = {score: place for place, score in enumerate(sorted(gold, reverse=True))}
    if len(places) == n:
        by_place = _untied(n, p)
        return [(), *[by_place[places[score]] for score in gold]]
    found: list[Sequence[float]] = [()] * (n + 1)
    best_first = sorted(range(n), key=gold.__getitem__, reverse=True)
    start = 0
    while start < n:
        tied = [document for document in best_first[start:] if gold[document] == gold[best_first[start]]]
        for document in tied:
            found[document + 1] = _worth(n, start, len(tied), p)
        start += len(tied)
    return found


@cache
def _untied(n: int, p: float) -> list[tuple[float, ...]]:
    return [_worth(n, place, 1, p) for place in range(n)]


@cache
def _worth(n: int, start: int, tied: int, p: float) -> tuple[float, ...]:
    """What a document adds by its place, if gold has it on one of the `tied` places from `start` on.

    At depth d > place both orders hold it with the probability min((d - start) / tied, 1).
    """
    weights = [1 / n if p == 1 else (1 - p) * p**place for place in range(n)]
    shares = [weights[d - 1] / d * min(max(d - start, 0) / tied, 1.0) for d in range(1, n + 1)]
    return tuple(sum(shares[place:]) for place in range(n))
