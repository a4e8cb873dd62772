"""nDCG of the order that a completion gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import ndcg
from rl_rerank.metrics.relevance import discounts, gains, ideal_dcg
from rl_rerank.reward.position_based import PositionBased
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, need_several, window_qrels


@dataclass(frozen=True)
class NDCG:
    """nDCG@k of the prompt's window, in [0, 1]; `malformed` if the completion is not well formed.

    DCG@k = sum over ranks i <= k of gain_i / log2(i + 1), over that of the best order; 0 where nothing is relevant. In
    expectation over the orders of equal scores. The ideal is taken over the window, not over all qrels: the policy can
    only order what it was shown.

    Paradigms: listwise, groupwise, first_token.

    Source: Jarvelin & Kekalainen 2002, https://doi.org/10.1145/582415.582418
    """

    k: int = 10
    gain: str = "linear"
    """`linear`: the grade; `exponential`: 2^grade - 1."""
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("ndcg", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        return ndcg(rollout.judgment.scores, window_qrels(example, rollout), k=self.k, gain=self.gain)

    def position_based(self, example: RankingExample, docids: Sequence[str]) -> PositionBased:
        """Gains over the ideal, and discounts down to place k."""
        gained = gains({docid: example.gain(docid) for docid in docids}, self.gain)
        ideal = ideal_dcg(gained, self.k) or 1.0
        shares = tuple(gained.get(docid, 0.0) / ideal for docid in docids)
        return PositionBased(shares, discounts(min(self.k, len(docids))))
