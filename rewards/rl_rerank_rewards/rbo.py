"""Rank-biased overlap with a gold order."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import rbo
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, gold_order, need_several


@dataclass(frozen=True)
class RBO:
    """Rank-biased overlap with the example's order, in [0, 1]; `malformed` if not well formed.

    (1 - p) * sum over depths d of p^(d-1) * |first d of both| / d. Truncated at the window's n documents the best value
    is 1 - p^n (.878 for p = .9 and n = 20); extrapolated it is 1. Without an order the grades give one, with ties, over
    whose orders the expectation is taken.

    Paradigms: listwise, groupwise, first_token.

    Source: Webber, Moffat & Zobel 2010, https://doi.org/10.1145/1852102.1852106
    """

    p: float = 0.9
    """Persistence, above 0 and below 1; at 1 it would be `average_overlap`."""
    extrapolate: bool = False
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("rbo", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        return rbo(rollout.judgment.scores, gold_order(example, rollout), p=self.p, extrapolate=self.extrapolate)
