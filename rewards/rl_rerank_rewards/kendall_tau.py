"""Kendall's tau with a gold order."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import kendall_tau
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, gold_order, need_several


@dataclass(frozen=True)
class KendallTau:
    """Kendall's tau with the example's order, in [-1, 1]; `malformed` if not well formed.

    (concordant - discordant) / pairs that the example's order, or else its grades, tell apart; tied scores count 0. 0
    where no pair is ordered.

    Paradigms: listwise, groupwise, first_token.

    Source: Kendall 1938, https://doi.org/10.1093/biomet/30.1-2.81
    """

    malformed: float = -1.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("kendall_tau", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        return kendall_tau(rollout.judgment.scores, gold_order(example, rollout))
