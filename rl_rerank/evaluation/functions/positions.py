"""How much a ranking depends on the order in which the documents were shown."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy.stats import kendalltau


class PositionHits(NamedTuple):
    """What became of the relevant documents that were shown at one position."""

    position: int
    """In the list as it was shown, from 1."""
    num_documents: int
    """Relevant documents shown there."""
    hit_rate: float
    """Share of them that the ranking put among its first k."""


def agreement(rankings: Sequence[Sequence[str]], k: int | None = None) -> float:
    """Mean Kendall tau over all pairs of rankings of the same documents that were shown in different orders.

    Args:
        rankings: docids best first, of one query.
        k: leave out pairs of documents of which neither ranking has one among its first k, such as those that a
            paradigm does not settle; None: all pairs count.

    Returns:
        1.0 where the order shown makes no difference, about 0.0 where the rankings have nothing in common.

    Raises:
        ValueError: for fewer than two rankings or documents, or rankings of different documents.
    """
    if len(rankings) < 2 or len(rankings[0]) < 2:
        raise ValueError("agreement needs at least two rankings of at least two documents")
    docids = sorted(rankings[0])
    for i, ranking in enumerate(rankings):
        if len(set(ranking)) != len(ranking) or sorted(ranking) != docids:
            raise ValueError(f"rankings must hold the same documents, each once; number {i + 1} differs from the first")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    at = [{docid: place for place, docid in enumerate(ranking)} for ranking in rankings]
    places = [[of[docid] for docid in docids] for of in at]
    return statistics.fmean(_tau(a, b, len(docids) if k is None else k) for a, b in itertools.combinations(places, 2))


def hits_by_position(
    rankings: Iterable[tuple[str, Sequence[str], Sequence[str]]],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    k: int,
    rel: int = 1,
) -> list[PositionHits]:
    """How often a relevant document reaches the first k, by the position at which it was shown.

    With documents shown in random order the curve of a ranker without position bias is flat.

    Args:
        rankings: qid, docids as shown, docids as ranked, best first; any number for a query.
        qrels: qid -> docid -> grade.
        rel: lowest grade that is relevant.

    Returns:
        One entry for each position at which a relevant document was shown, in order of positions.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    hits: dict[int, list[bool]] = {}
    for qid, shown, ranked in rankings:
        grades, top = qrels.get(qid, {}), set(ranked[:k])
        for position, docid in enumerate(shown, start=1):
            if grades.get(docid, 0) >= rel:
                hits.setdefault(position, []).append(docid in top)
    return [PositionHits(p, len(found), sum(found) / len(found)) for p, found in sorted(hits.items())]


def _tau(a: Sequence[int], b: Sequence[int], k: int) -> float:
    """Kendall's tau over the pairs of documents of which `a` or `b` has one among its first k places."""
    if k >= len(a):
        return float(kendalltau(a, b)[0])  # pyright: ignore[reportArgumentType] (scipy says too little of its result)
    is_top = [min(places) < k for places in zip(a, b, strict=True)]
    pairs = [(i, j) for i, j in itertools.combinations(range(len(a)), 2) if is_top[i] or is_top[j]]
    return statistics.fmean(1.0 if (a[i] < a[j]) == (b[i] < b[j]) else -1.0 for i, j in pairs)
