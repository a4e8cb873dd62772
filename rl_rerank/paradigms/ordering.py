"""From scores or an order to a ranking whose scores decrease strictly, so that no tool can break ties differently."""

from __future__ import annotations

import statistics
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rl_rerank.types import Ranking, RankingExample


def rank_by_scores(
    example: RankingExample, scores: Mapping[str, float], *, num_prompts: int, num_malformed: int, num_fallbacks: int
) -> Ranking:
    """Order by score, equal scores in shown order; documents without a score take the median of the others'."""
    median = statistics.median(scores.values()) if scores else 0.0
    complete = {docid: scores.get(docid, median) for docid in example.docids}
    docids = sorted(example.docids, key=lambda docid: -complete[docid])
    values = [_float32(complete[docid]) for docid in docids]
    if any(a <= b for a, b in pairwise(values)):
        return rank_by_order(example.qid, docids, num_prompts, num_malformed, num_fallbacks)
    kept = {docid: complete[docid] for docid in docids}
    return Ranking(example.qid, tuple(docids), kept, num_prompts, num_malformed, num_fallbacks)


def rank_by_order(
    qid: str, docids: Sequence[str], num_prompts: int = 0, num_malformed: int = 0, num_fallbacks: int = 0
) -> Ranking:
    """The scores n, n - 1, ..., 1."""
    scores = {docid: float(len(docids) - rank) for rank, docid in enumerate(docids)}
    return Ranking(qid, tuple(docids), scores, num_prompts, num_malformed, num_fallbacks)


def _float32(value: float) -> float:
    """As trec_eval holds a score."""
    return struct.unpack("f", struct.pack("f", value))[0]
