"""Average precision of the order that a completion gives."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import average_precision
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, need_several, window_qrels


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision over the window, in [0, 1]; `malformed` if the completion is not well formed.

    The mean over the window's relevant documents (grade >= 1) of the precision at their ranks; 0 where none is. In
    expectation over the orders of equal scores.

    Paradigms: listwise, groupwise, first_token.

    Source: trec_eval's `map`; ties: McSherry & Najork 2008, https://doi.org/10.1007/978-3-540-78646-7_38
    """

    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("average_precision", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        return average_precision(rollout.judgment.scores, window_qrels(example, rollout))
