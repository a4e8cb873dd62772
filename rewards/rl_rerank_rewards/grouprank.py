"""GroupRank's reward: the order of a group's scores, and their distribution."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from rl_rerank.reward.base import Breakdown, Term, weighted
from rl_rerank.reward.format_penalty import PenaltyTiers
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.alignment import Alignment
from rl_rerank_rewards.ndcg import NDCG
from rl_rerank_rewards.recall import Recall


@dataclass(frozen=True)
class GroupRank:
    """nDCG@10 + 0.2 recall@10 + 0.1 (1 - JS), in [0, 1.3]; -0.1 for a bad answer and -0.5 without the tags.

    Linear gains, equal scores in expectation, JS in bits against the example's scores or else its grades. A group of at
    most 10 documents has a recall@10 of 1 whatever the order: recall_k=null is half the group.

    Paradigms: groupwise.

    Source: GroupRank, https://arxiv.org/abs/2511.11653. Reconstructed: how scores become distributions (sum, smoothed),
    and what wrong identifiers and two answer blocks earn; no code was published. Text outside the tags is refused.
    """

    k: int = 10
    recall_k: int | None = 10
    recall: float = 0.2
    """The weight of recall."""
    alignment: float = 0.1
    """The weight of 1 - JS."""
    normaliser: str = "sum"
    smoothing: float = 1e-6
    tags: float = -0.5
    answer: float = -0.1
    ids: float = -0.1

    paradigms: ClassVar[tuple[str, ...]] = ("groupwise",)
    unclaimed: ClassVar[dict[str, str]] = Alignment.unclaimed

    def __post_init__(self) -> None:
        _ = self.tiers, self.terms

    @cached_property
    def tiers(self) -> PenaltyTiers:
        """What the tiers earn."""
        return PenaltyTiers(self.tags, self.answer, self.ids)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """What a valid completion earns."""
        return (
            Term("ndcg", NDCG(self.k)),
            Term("recall", Recall(self.recall_k), self.recall),
            Term("alignment", Alignment(normaliser=self.normaliser, smoothing=self.smoothing), self.alignment),
        )

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        return self.explain(example, rollout).value

    def explain(self, example: RankingExample, rollout: Rollout) -> Breakdown:
        """The value with its parts: the three terms, or the gate."""
        gate = self.tiers.value(rollout.judgment)
        return weighted(self.terms, example, rollout) if gate is None else Breakdown(gate, {"gate": gate})
