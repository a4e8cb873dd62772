"""Position-based rewards: sums over places, whose expected gradient can be estimated with little variance."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PositionBased:
    """The reward of an order of a prompt's documents: a sum over places of weight times gain."""

    gains: tuple[float, ...]
    """Gain of each document, in the order in which `position_based` received them."""
    weights: tuple[float, ...]
    """Weight of each place from the first; omitted places weigh 0."""
    first: bool = False
    """Count only the first place whose document has a gain; all gains are then 1 or 0."""
