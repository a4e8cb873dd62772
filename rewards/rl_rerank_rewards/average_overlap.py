"""Average overlap with a gold order."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import average_overlap
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, gold_order, need_several


@dataclass(frozen=True)
class AverageOverlap:
    """Average overlap with the example's order, in [0, 1]; `malformed` if not well formed.

    The mean over the depths d = 1..k of |first d of both| / d. Without an order the grades give one, with ties, over
    whose orders the expectation is taken.

    Paradigms: listwise, groupwise, first_token.

    Source: Fagin, Kumar & Sivakumar 2003, https://doi.org/10.1137/S0895480102412856
    """

    k: int | None = None
    """Deepest depth; None: the window."""
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("average_overlap", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        return average_overlap(rollout.judgment.scores, gold_order(example, rollout), k=self.k)
