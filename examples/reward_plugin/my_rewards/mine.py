"""How high the first relevant document stands."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class Mine:
    """Reciprocal rank of the first relevant document (grade >= 1) times `x`; 0.0 for a malformed completion.

    Documents with the same score have no order: the value is the expectation over their orders. One document alone has
    the same value whatever is said of it, so prompts have to show several.
    """

    x: float = 1.0

    paradigms: ClassVar[tuple[str, ...]] = ("listwise", "groupwise", "first_token")

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        scores = rollout.judgment.scores
        ahead = 0
        for score in sorted(set(scores.values()), reverse=True):
            tied = [docid for docid, value in scores.items() if value == score]
            relevant = sum(1 for docid in tied if example.qrels.get(docid, 0) >= 1)
            if relevant:
                return self.x * expected_reciprocal(ahead, len(tied), relevant)
            ahead += len(tied)
        return 0.0


def expected_reciprocal(ahead: int, tied: int, relevant: int) -> float:
    """E[1 / rank of the first relevant one], `relevant` of `tied` documents in random order after `ahead` others.

    P(the first one stands at place j of the tie) = C(tied - j, relevant - 1) / C(tied, relevant).
    """
    places = range(1, tied - relevant + 2)
    return sum(comb(tied - j, relevant - 1) / (ahead + j) for j in places) / comb(tied, relevant)
