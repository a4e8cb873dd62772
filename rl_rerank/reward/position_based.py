"""Rewards that are sums over places, whose expected gradient a policy on scores can have with little variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from rl_rerank.types import RankingExample


@dataclass(frozen=True, slots=True)
class Additive:
    """What an order of a prompt's documents earns: the sum over places of the place's weight times its gain."""

    gains: tuple[float, ...]
    """Of each document, in the order in which they were asked about."""
    weights: tuple[float, ...]
    """Of each place, the first one first; those that are left out weigh 0."""
    first: bool = False
    """Only the first place counts whose document has a gain; all gains are then 1 or 0."""


class HasAdditive(Protocol):
    """A reward of well-formed orders that says how it is made up."""

    def additive(self, example: RankingExample, docids: Sequence[str], /) -> Additive:
        """The same value that the reward gives to every order of these documents."""
        ...


def is_additive(reward: object) -> TypeGuard[HasAdditive]:
    """Whether a reward has a method `additive`."""
    return hasattr(reward, "additive")
