"""Finding everything, for screening."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import norm_area, wss
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import ORDERS, need_several, window_qrels


@dataclass(frozen=True)
class TotalRecall:
    """Normalised area under the recall curve, or work saved over sampling, of the prompt's documents.

    norm_area lies in [0, 1], in expectation over the orders of equal scores; wss in [recall - 1, recall), and depends
    on one document alone. Relevant from grade 1 on; 0 where none is. `malformed` if not well formed.

    Paradigms: listwise, groupwise, first_token.

    Source: CLEF TAR's evaluation, as used in https://arxiv.org/abs/2212.09017; as a reward it is ours.
    """

    measure: str = "norm_area"
    """`norm_area` or `wss`."""
    recall: float = 0.95
    """Of wss: the recall to be reached."""
    malformed: float = -0.05

    paradigms: ClassVar[tuple[str, ...]] = ORDERS

    def __post_init__(self) -> None:
        if self.measure not in ("norm_area", "wss"):
            raise ValueError(f"total_recall: measure must be norm_area or wss; got {self.measure!r}")

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        need_several("total_recall", rollout)
        if not rollout.judgment.is_ok:
            return self.malformed
        scores, qrels = rollout.judgment.scores, window_qrels(example, rollout)
        return norm_area(scores, qrels) if self.measure == "norm_area" else wss(scores, qrels, recall=self.recall)
