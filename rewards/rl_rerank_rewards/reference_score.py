"""Squared distance to reference scores."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.window import reference_score


@dataclass(frozen=True)
class ReferenceScore:
    """-mean over the prompt's documents of ((s - t) / scale)^2, in [-1, 0]; `malformed` if not well formed.

    s is the completion's score and t the example's (`scores`, on the same scale), such as a teacher's.

    Paradigms: pointwise_graded, groupwise.

    Source: the reward r_SE that ERank compares with, https://arxiv.org/abs/2509.00520; the scale's division is ours.
    """

    scale: float = 10.0
    """The highest score."""
    malformed: float = -1.0

    paradigms: ClassVar[tuple[str, ...]] = ("pointwise_graded", "groupwise")
    unclaimed: ClassVar[dict[str, str]] = {
        "pays_constant": "a square is convex: equal scores are closer to the reference than permuted ones"
    }

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        if not rollout.judgment.is_ok:
            return self.malformed
        scores = rollout.judgment.scores
        errors = [((score - reference_score(example, docid)) / self.scale) ** 2 for docid, score in scores.items()]
        return -sum(errors) / len(errors)
