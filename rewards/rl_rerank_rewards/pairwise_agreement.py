"""Agreement with the grades on pairs of documents."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import pairwise_agreement
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, need_several, window_qrels


@dataclass(frozen=True)
class PairwiseAgreement:
    """Share of the pairs of different grades in the right order, in [0, 1]; `malformed` if not well formed.

    A tie counts half; 0.5 where all grades are equal. For a prompt of two documents it is whether the better one won.

    Paradigms: pairwise, listwise, groupwise, first_token.

    Source: the concordance of Kendall 1938, https://doi.org/10.1093/biomet/30.1-2.81
    """

    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ("pairwise", *ORDERS)

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("pairwise_agreement", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        return pairwise_agreement(rollout.judgment.scores, window_qrels(example, rollout))
