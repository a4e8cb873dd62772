"""What a completion gains over the order that it was shown."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import by_place, ndcg
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, need_several, window_qrels


@dataclass(frozen=True)
class Improvement:
    """(nDCG@k - that of the shown order) / (1 - that of the shown order), in [floor, 1].

    Repeating the shown order earns 0, a perfect order 1; below `floor` it is cut, because the quotient has no bound.
    Where the shown order is perfect already, a perfect order earns 1 and any other the floor; where nothing is relevant
    every order earns 0. Linear gains, the ideal over the window. `malformed` if the completion is not well formed.

    Paradigms: listwise, groupwise, first_token.

    Source: after Rearank, https://arxiv.org/abs/2505.20046; the floor and the rule for a perfect start are ours.
    """

    k: int = 10
    floor: float = -1.0
    malformed: float = -1.0

    paradigms: ClassVar[tuple[str, ...]] = ORDERS
    unclaimed: ClassVar[dict[str, str]] = {
        "pays_identity": "the shown order earns 0, and a random one is more often worse than it can be better"
    }

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("improvement", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        qrels = window_qrels(example, rollout)
        if max(qrels.values()) < 1:
            return 0.0
        shown = ndcg(by_place(rollout.prompt.docids), qrels, k=self.k)
        reached = ndcg(rollout.judgment.scores, qrels, k=self.k)
        if 1 - shown < 1e-9:
            return 1.0 if 1 - reached < 1e-9 else self.floor
        return max((reached - shown) / (1 - shown), self.floor)
