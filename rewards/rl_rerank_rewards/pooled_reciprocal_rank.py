"""Ranks among all rollouts of a query, as ERank pools them."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout


def pooled_ranks(scores: Sequence[float | None]) -> list[int | None]:
    """The rank of every score among all of them, highest first; equal scores share the best of their ranks.

    None, a rollout without a score, is left out and has no rank.
    """
    known = sorted(-score for score in scores if score is not None)
    return [None if score is None else bisect_left(known, -score) + 1 for score in scores]


def only_scores(name: str, rollouts: Sequence[Rollout]) -> list[float | None]:
    """The score that each rollout gives its document, None where it is malformed.

    Raises:
        ValueError: if a prompt is about several documents.
    """
    for rollout in rollouts:
        if len(rollout.prompt.docids) != 1:
            raise ValueError(f"{name} judges one document a prompt; got {len(rollout.prompt.docids)}")
    return [r.judgment.scores[r.prompt.docids[0]] if r.judgment.is_ok else None for r in rollouts]


@dataclass(frozen=True)
class PooledReciprocalRank:
    """1 / rank of a relevant document's score among the N x G of its query, 0.0 for others, in [0, 1].

    Equal scores share the best of their ranks. Relevant from the grade `relevant` on. A malformed completion earns
    `malformed` and takes no rank.

    Paradigms: pointwise_graded, pointwise.

    Source: the first case of ERank's reward, https://arxiv.org/abs/2509.00520; the whole is `erank`.
    """

    relevant: int = 1
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ("pointwise_graded", "pointwise")
    unclaimed: ClassVar[dict[str, str]] = {
        "binary": "relevant documents are all alike: the highest score earns the most also for a lower grade",
        "pays_constant": "equal scores share the best rank, and nothing is lost by it on irrelevant documents",
    }

    def score_all(self, example: RankingExample, rollouts: Sequence[Rollout]) -> list[float]:
        """A value for each of the query's rollouts."""
        ranks = pooled_ranks(only_scores("pooled_reciprocal_rank", rollouts))
        return [self._value(example, rollout, rank) for rollout, rank in zip(rollouts, ranks, strict=True)]

    def _value(self, example: RankingExample, rollout: Rollout, rank: int | None) -> float:
        if rank is None:
            return self.malformed
        return 1 / rank if example.qrels.get(rollout.prompt.docids[0], 0) >= self.relevant else 0.0
