"""From scores or an order to a ranking whose scores decrease strictly, so that no tool can break ties differently."""

from __future__ import annotations

import statistics
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rl_rerank.types import Judgment, Ranking, RankingExample


@dataclass
class Counts:
    """What a strategy counts while it asks, under the names of `Ranking`."""

    num_prompts: int = 0
    num_malformed: int = 0
    num_fallbacks: int = 0
    num_ties: int = 0

    def add(self, judgments: Sequence[Judgment]) -> None:
        """Count the answers of a round."""
        self.num_prompts += len(judgments)
        self.num_malformed += sum(not judgment.is_ok for judgment in judgments)
        self.num_fallbacks += sum(not judgment.scores for judgment in judgments)


def rank_by_scores(
    example: RankingExample,
    scores: Mapping[str, float],
    *,
    num_prompts: int,
    num_malformed: int,
    num_fallbacks: int,
    num_ties: int = 0,
) -> Ranking:
    """Order by score, equal scores in shown order; documents without a score take the median of the others'."""
    median = statistics.median(scores.values()) if scores else 0.0
    complete = {docid: scores.get(docid, median) for docid in example.docids}
    docids = sorted(example.docids, key=lambda docid: -complete[docid])
    values = [_float32(complete[docid]) for docid in docids]
    if any(a <= b for a, b in pairwise(values)):
        return rank_by_order(example.qid, docids, num_prompts, num_malformed, num_fallbacks, num_ties)
    kept = {docid: complete[docid] for docid in docids}
    return Ranking(example.qid, tuple(docids), kept, num_prompts, num_malformed, num_fallbacks, num_ties)


def rank_by_order(
    qid: str,
    docids: Sequence[str],
    num_prompts: int = 0,
    num_malformed: int = 0,
    num_fallbacks: int = 0,
    num_ties: int = 0,
) -> Ranking:
    """The scores n, n - 1, ..., 1."""
    scores = {docid: float(len(docids) - rank) for rank, docid in enumerate(docids)}
    return Ranking(qid, tuple(docids), scores, num_prompts, num_malformed, num_fallbacks, num_ties)


def rank_top(example: RankingExample, top: Sequence[str], counts: Counts) -> Ranking:
    """The best documents, then the others in shown order."""
    rest = (docid for docid in example.docids if docid not in top)
    return rank_by_order(example.qid, (*top, *rest), **vars(counts))


def _float32(value: float) -> float:
    """As trec_eval holds a score."""
    return struct.unpack("f", struct.pack("f", value))[0]
