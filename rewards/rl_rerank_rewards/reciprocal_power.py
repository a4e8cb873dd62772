"""Reciprocal powers of the ranks of relevant documents."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import reciprocal_power
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, need_several, window_qrels


@dataclass(frozen=True)
class ReciprocalPower:
    """Sum of 1 / rank^a over relevant documents, over the best order's, in [0, 1]; `malformed` if not well formed.

    Relevant from grade 1 on; 0 where none is. With a = 3 nearly all of it is in rank 1: rank 2 gives 1/8. In
    expectation over the orders of equal scores.

    Paradigms: listwise, groupwise, first_token.

    Source: the result reward of MM-R5, https://arxiv.org/abs/2506.12364, with a = 3.
    """

    exponent: float = 3.0
    """a, above 0."""
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("reciprocal_power", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        return reciprocal_power(rollout.judgment.scores, window_qrels(example, rollout), exponent=self.exponent)
