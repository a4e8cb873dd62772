"""Recall of the order that a completion gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import recall
from rl_rerank.reward.position_based import PositionBased
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, window_qrels


@dataclass(frozen=True)
class Recall:
    """Recall@k of the window's relevant documents (grade >= 1), in [0, 1]; `malformed` if not well formed.

    In expectation over the orders of equal scores; 0 where nothing is relevant. A cutoff that is not below the window's
    size pays every order the same, and the group teaches nothing: by default it is half the window, at most 10.

    Paradigms: listwise, groupwise, first_token.

    Source: trec_eval's `recall`; as a reward: ReasonRank, https://arxiv.org/abs/2508.07050
    """

    k: int | None = None
    """None: half the window's documents, at least 1 and at most 10."""
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        if not rollout.judgment.is_ok:
            return self.malformed
        k = cutoff(self.k, len(rollout.prompt.docids))
        return recall(rollout.judgment.scores, window_qrels(example, rollout), k=k)

    def position_based(self, example: RankingExample, docids: Sequence[str]) -> PositionBased:
        """A share of the relevant documents at each of the first k places."""
        relevant = [float(example.qrels.get(docid, 0) >= 1) for docid in docids]
        k = cutoff(self.k, len(docids))
        found = sum(relevant) or 1.0
        return PositionBased(tuple(value / found for value in relevant), (1.0,) * min(k, len(docids)))


def cutoff(k: int | None, n: int) -> int:
    """The cutoff for a window of `n` documents."""
    return min(10, max(1, n // 2)) if k is None else k
