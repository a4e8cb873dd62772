"""Rewards scores within a band around their grade's anchor."""

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class AnchorBand:
    """-mean over the prompt's documents of max((s / scale - anchor)^2 - width^2, 0), in (-1, 0].

    The anchor of grade y of `levels` grades is (y + 1/2) / levels: .1, .3, .5, .7 and .9 for 0 to 4. With a half width
    of 1 / (2 levels) the bands tile [0, 1]. It keeps scores of different groups and queries comparable; it ranks
    nothing. `malformed` if the completion is not well formed.

    Paradigms: pointwise_graded, groupwise.

    Source: the human-anchored loss of Zou et al. 2021, https://arxiv.org/abs/2105.11108, with eps = width^2 = .01; its
    exact form is reconstructed, and its use as a reward is ours.
    """

    levels: int = 5
    """How many grades there are, from 0."""
    width: float = 0.1
    """Half the width of a band; inside it nothing is lost."""
    scale: float = 10.0
    """The highest score."""
    malformed: float = -1.0

    paradigms: ClassVar[tuple[str, ...]] = ("pointwise_graded", "groupwise")
    unclaimed: ClassVar[dict[str, str]] = {
        "pays_constant": "a square is convex: equal scores are closer to the anchors than permuted ones"
    }

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        if not rollout.judgment.is_ok:
            return self.malformed
        scores = rollout.judgment.scores
        return -sum(self._distance(example, docid, score) for docid, score in scores.items()) / len(scores)

    def _distance(self, example: RankingExample, docid: str, score: float) -> float:
        grade = example.gain(docid)
        if grade >= self.levels:
            raise ValueError(
                f"anchor_band: qid {example.qid!r} grades {docid!r} {grade}, and levels={self.levels} end at "
                f"{self.levels - 1}"
            )
        return max((score / self.scale - (grade + 0.5) / self.levels) ** 2 - self.width**2, 0.0)
