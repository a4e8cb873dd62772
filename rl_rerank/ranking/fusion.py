"""Combining rankings of one query: means over repetitions, and fusion with another system."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rl_rerank.paradigms.ordering import counts, order_by, rank_by_order, rank_by_scores
from rl_rerank.types import Ranking, RankingExample

RRF_K = 60
"""Cormack, Clarke and Buettcher 2009, https://doi.org/10.1145/1571941.1572114."""


def average(shown: RankingExample, rankings: Sequence[Ranking]) -> Ranking:
    """Average several rankings of the same documents by score, or by rank if one of them is an order only.

    The mean is over the rankings in which the model scored the document. Equal means keep the order of `shown`;
    counters are summed.
    """
    scored = [r.raw_scores for r in rankings if r.raw_scores is not None]
    if len(scored) == len(rankings):
        given = {d: [s[d] for s in scored if d in s] for d in shown.docids}
        means = {d: statistics.fmean(values) for d, values in given.items() if values}
        averaged = rank_by_scores(shown, means, num_prompts=0, num_malformed=0, num_fallbacks=0)
    else:
        ranks = [_ranks(ranking) for ranking in rankings]
        averaged = order_by(shown.qid, shown.docids, {d: -statistics.fmean(r[d] for r in ranks) for d in shown.docids})
    return replace(averaged, **counts(rankings))


def first_stage(example: RankingExample) -> Ranking:
    """Rank the candidates in their given order; the retriever's scores are the raw ones if all are known."""
    scores = {c.docid: c.score for c in example.candidates if c.score is not None}
    raw = scores if len(scores) == len(example.candidates) else None
    return replace(rank_by_order(example.qid, example.docids), raw_scores=raw)


def fuse(first: Ranking, second: Ranking, method: str, weight: float) -> Ranking:
    """Order by weight * a + (1 - weight) * b, with a and b the rankings' `values` by `method`.

    A document missing from a ranking gets the ranking's lowest value, or 0 with rrf. Equal sums keep the order of
    `first`, whose counters are kept.

    Args:
        method: `minmax`, `zscore`, `rrf` or `sum`, as in `values`.
        weight: of `first`, in [0, 1].
    """
    if first.qid != second.qid:
        raise ValueError(f"rankings of different queries cannot be fused: {first.qid!r} and {second.qid!r}")
    docids = (*first.docids, *(d for d in second.docids if d not in first.scores))
    a, b = (_filled(values(ranking, method), docids, method) for ranking in (first, second))
    fused = {d: weight * a[d] + (1 - weight) * b[d] for d in docids}
    return replace(order_by(first.qid, docids, fused), **counts([first]), raw_scores=fused)


def values(ranking: Ranking, method: str) -> dict[str, float]:
    """Map docid to its value in a fusion, from its score or rank.

    `minmax`: the scores scaled to [0, 1]. `zscore`: the scores minus their mean, over their population standard
    deviation. Both give 0 if all scores are equal. `rrf`: 1 / (60 + rank). `sum`: the unchanged scores. Scores are the
    model's or the retriever's own; n, n - 1, ..., 1 if a ranking is an order only.
    """
    if method == "rrf":
        return {docid: 1 / (RRF_K + rank) for docid, rank in _ranks(ranking).items()}
    scores = ranking.raw_scores if ranking.raw_scores is not None else ranking.scores
    return dict(scores) if method == "sum" else scaled(scores, method)


def scaled(scores: Mapping[str, float], method: str) -> dict[str, float]:
    """Scale the scores of a query by `minmax` or `zscore`, as `values` does; 0 if all are equal."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if low == high:
        return dict.fromkeys(scores, 0.0)
    if method == "minmax":
        return {docid: (score - low) / (high - low) for docid, score in scores.items()}
    mean, deviation = statistics.fmean(scores.values()), statistics.pstdev(scores.values())
    return {docid: (score - mean) / deviation for docid, score in scores.items()}


def _filled(given: Mapping[str, float], docids: Sequence[str], method: str) -> dict[str, float]:
    lowest = min(given.values(), default=0.0) if method != "rrf" else 0.0
    return {docid: given.get(docid, lowest) for docid in docids}


def _ranks(ranking: Ranking) -> dict[str, int]:
    return {docid: rank for rank, docid in enumerate(ranking.docids, start=1)}
