"""ProRank's reward of the first stage: a binary answer in the asked form, and the right one."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from rl_rerank.reward.base import Breakdown, Term, weighted
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.exact_match import ExactMatch
from rl_rerank_rewards.format import Format


@dataclass(frozen=True)
class ProRank:
    """`form` for an answer in the asked form, and `correct` more if it is the right one; 0.0 for anything else.

    Paradigms: pointwise.

    Source: ProRank, https://arxiv.org/abs/2506.03487, whose reward has these two parts. Their weights are not given:
    1 and 1 are ours, and so is the gate.
    """

    form: float = 1.0
    """The weight of the form."""
    correct: float = 1.0
    """The weight of the right answer."""
    relevant: int = 1
    """The lowest grade of a relevant document."""

    paradigms: ClassVar[tuple[str, ...]] = ("pointwise",)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """What a completion earns."""
        form = Format(ok=1.0, ids=0.0, answer=0.0, tags=0.0)
        return Term("form", form, self.form), Term("correct", ExactMatch(self.relevant), self.correct)

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        return self.explain(example, rollout).value

    def explain(self, example: RankingExample, rollout: Rollout) -> Breakdown:
        """The value with its two parts."""
        return weighted(self.terms, example, rollout)
