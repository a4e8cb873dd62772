"""Position-based rewards: sums over places, whose expected gradient can be estimated with little variance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PositionBased:
    """The reward of an order of a prompt's documents: the sum over places of the place's weight times its gain."""

    gains: tuple[float, ...]
    """Of each document, in the order in which they were asked about."""
    weights: tuple[float, ...]
    """Of each place, the first one first; those that are left out weigh 0."""
    first: bool = False
    """Only the first place counts whose document has a gain; all gains are then 1 or 0."""
