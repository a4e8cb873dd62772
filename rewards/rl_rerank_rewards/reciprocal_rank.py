"""Reciprocal rank of the order that a completion gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import reciprocal_rank
from rl_rerank.reward.position_based import PositionBased
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, need_several, window_qrels


@dataclass(frozen=True)
class ReciprocalRank:
    """1 / rank of the first relevant document, in [0, 1]; `malformed` if not well formed.

    0 where none is relevant (grade >= 1) or none stands in the first k. In expectation over the orders of equal scores.

    Paradigms: listwise, groupwise, first_token.

    Source: Voorhees 1999, the TREC-8 question answering track.
    """

    k: int | None = None
    """Cutoff; None: all ranks."""
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("reciprocal_rank", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        return reciprocal_rank(rollout.judgment.scores, window_qrels(example, rollout), k=self.k)

    def position_based(self, example: RankingExample, docids: Sequence[str]) -> PositionBased:
        """1 / place of the first relevant document."""
        relevant = tuple(float(example.qrels.get(docid, 0) >= 1) for docid in docids)
        deepest = len(docids) if self.k is None else min(self.k, len(docids))
        return PositionBased(relevant, tuple(1 / place for place in range(1, deepest + 1)), first=True)
