"""Gates: rewards of completions without a valid order, by tier of format.

The tiers are tags < answer < ids < valid. A completion's status determines its tier. Published systems differ
about two faults: a second answer block, and text outside the block.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from rl_rerank.paradigms.answers import find_answer
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.types import Completion, Judgment, Rollout, Status

OUTSIDE = "text_outside_answer"
SEVERAL = "several_answer_blocks"


class Tier(StrEnum):
    """The format tier of a completion."""

    tags = "tags"
    """No answer block, or a truncated completion."""
    answer = "answer"
    """An unreadable answer, or two answers."""
    ids = "ids"
    """A readable answer with wrong, missing or repeated documents."""
    valid = "valid"


def tier_of(judgment: Judgment) -> Tier:
    """Determine the tier of a strictly parsed completion."""
    if judgment.status is Status.ok:
        return Tier.valid
    if judgment.status is Status.repaired:
        return Tier.ids
    if judgment.status is Status.tags and {issue.kind for issue in judgment.issues} == {SEVERAL}:
        return Tier.answer
    return Tier[judgment.status.value]


@dataclass(frozen=True)
class PenaltyTiers:
    """Rewards of the tiers below `valid`.

    Raises:
        ValueError: if a worse tier earns more than a better one.
    """

    tags: float
    answer: float
    ids: float

    def __post_init__(self) -> None:
        if not self.tags <= self.answer <= self.ids:
            raise ValueError(
                "the tiers must not fall from worse to better: tags <= answer <= ids; got "
                f"{self.tags}, {self.answer}, {self.ids}"
            )

    def value(self, judgment: Judgment) -> float | None:
        """Look up a completion's reward; None for a valid one."""
        reached = tier_of(judgment)
        return None if reached is Tier.valid else getattr(self, reached.value)


def without_outside(rollout: Rollout, alone: Paradigm) -> Rollout:
    """Judge the rollout as if nothing were outside its answer block, as an unanchored regex reads it.

    Args:
        alone: the rollout's paradigm without reasoning, which parses the content of the block.
    """
    if rollout.judgment.status is not Status.tags:
        return rollout
    kinds = [issue.kind for issue in rollout.judgment.issues]
    if OUTSIDE not in kinds:
        return rollout
    if set(kinds) != {OUTSIDE}:
        others = tuple(issue for issue in rollout.judgment.issues if issue.kind != OUTSIDE)
        return replace(rollout, judgment=replace(rollout.judgment, issues=others))
    block = find_answer(rollout.completion, reasoning=True, strict=False, tags=traits(alone).tags).text
    assert block is not None  # it is the only fault
    return replace(rollout, judgment=alone.parse(rollout.prompt, Completion(block), strict=True))
