"""ReasonRank's reward: several views of one order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from rl_rerank.metrics.orders import Orders
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import Breakdown, Term, weighted
from rl_rerank.reward.format_penalty import PenaltyTiers, without_outside
from rl_rerank.types import Judgment, RankingExample, Rollout, Status
from rl_rerank_rewards.average_overlap import AverageOverlap
from rl_rerank_rewards.ndcg import NDCG
from rl_rerank_rewards.rbo import RBO
from rl_rerank_rewards.recall import Recall, cutoff
from rl_rerank_rewards.window import gold_order, need_several, window_qrels

ALONE = Listwise(window=None)


@dataclass(frozen=True)
class MultiView:
    """nDCG@10 + 0.2 recall@10 + 0.1 overlap with the example's order, in [0, 1.3]; 0 and -1 for what is malformed.

    Recall, because the first half of a sliding window moves on. The overlap is rank-biased with persistence `p`; with 1
    it is average overlap, which is what the published code computes. Text outside the answer block is ignored.

    Paradigms: listwise.

    Source: ReasonRank, https://arxiv.org/abs/2508.07050, and its code. What two answer blocks earn is our choice.
    """

    k: int = 10
    recall_k: int | None = 10
    """None: half the window, which teaches something also where a window has no more than 10 documents."""
    recall: float = 0.2
    """The weight of recall."""
    overlap: float = 0.1
    """The weight of the overlap."""
    p: float = 1.0
    """1: average overlap; below 1: rank-biased overlap, truncated at the window, so that its best is 1 - p^n."""
    tags: float = -1.0
    answer: float = 0.0
    ids: float = 0.0
    check_range: bool = True
    """False, as published: an answer of n different numbers passes. 0 is the last document, others are left out."""

    paradigms: ClassVar[tuple[str, ...]] = ("listwise",)

    def __post_init__(self) -> None:
        _ = self.tiers, self.terms

    @cached_property
    def tiers(self) -> PenaltyTiers:
        """What the tiers earn."""
        return PenaltyTiers(self.tags, self.answer, self.ids)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """What a valid completion earns."""
        overlap = AverageOverlap() if self.p == 1 else RBO(self.p)
        return (
            Term("ndcg", NDCG(self.k)),
            Term("recall", Recall(self.recall_k), self.recall),
            Term("overlap", overlap, self.overlap),
        )

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        return self.explain(example, rollout).value

    def explain(self, example: RankingExample, rollout: Rollout) -> Breakdown:
        """The value with its parts: the three terms, or the gate."""
        return self.explain_group(example, [rollout])[0]

    def explain_group(self, example: RankingExample, rollouts: Sequence[Rollout]) -> list[Breakdown]:
        """The same for completions of one prompt, whose ideal and gold order are looked up once."""
        orders, found = None, []
        for rollout in rollouts:
            judgment = rollout.judgment
            if rollout.prompt.paradigm == ALONE.name and judgment.is_ok:
                # Its parser gives the identifiers in their order, which the scores only repeat.
                orders = orders or self._orders(example, rollout)
                ndcg, recall, overlap = orders(judgment.ids)
                value = ndcg + self.recall * recall + self.overlap * overlap
                found.append(Breakdown(value, {"ndcg": ndcg, "recall": recall, "overlap": overlap}))
            else:
                found.append(self._one(example, rollout))
        return found

    def _one(self, example: RankingExample, rollout: Rollout) -> Breakdown:
        read = without_outside(rollout, ALONE)
        if not self.check_range:
            read = _any_range(read)
        gate = self.tiers.value(read.judgment)
        return weighted(self.terms, example, read) if gate is None else Breakdown(gate, {"gate": gate})

    def _orders(self, example: RankingExample, rollout: Rollout) -> Orders:
        need_several("multiview", rollout)
        grades, gold = window_qrels(example, rollout), gold_order(example, rollout)
        recall_k = cutoff(self.recall_k, len(grades))
        return Orders([*grades.values()], [*gold.values()], k=self.k, recall_k=recall_k, p=self.p)


def _any_range(rollout: Rollout) -> Rollout:
    """Let n different numbers pass as the published code does; documents that are not named share the end."""
    ids, docids = rollout.judgment.ids, rollout.prompt.docids
    n = len(docids)
    if rollout.judgment.status is not Status.ids or not len(ids) == len(set(ids)) == n:
        return rollout
    named = dict.fromkeys(docids[i - 1] for i in ids if i <= n)  # docids[-1] for 0
    scores = dict.fromkeys(docids, 0.0) | {docid: float(n - place) for place, docid in enumerate(named)}
    return Rollout(rollout.prompt, rollout.completion, Judgment(Status.ok, scores, ids))
