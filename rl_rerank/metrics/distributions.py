"""Scores as a distribution over documents, and how far two of them are apart."""

import math
from collections.abc import Sequence

NORMALISERS = ("sum", "softmax")


def normalised(
    scores: Sequence[float], *, how: str = "sum", smoothing: float = 0.0, temperature: float = 1.0
) -> list[float]:
    """Scores as probabilities.

    Args:
        scores: at least 0 where `how` is `sum`.
        how: `sum` divides by the sum; `softmax` is that.
        smoothing: what is added to every score before dividing by the sum. Scores that are all 0 are uniform.

    Raises:
        ValueError: for a negative score under `sum`, or another normaliser.
    """
    if how not in NORMALISERS:
        raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}; got {how!r}")
    if how == "softmax":
        return softmax(scores, temperature)
    if min(scores) < 0:
        raise ValueError(f"scores below 0 have no shares of their sum; got {min(scores)}; use softmax")
    weights = [score + smoothing for score in scores]
    whole = sum(weights)
    return [weight / whole for weight in weights] if whole else [1 / len(weights)] * len(weights)


def softmax(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    """exp(score / temperature), over the sum of these."""
    highest = max(scores)
    powers = [math.exp((score - highest) / temperature) for score in scores]
    whole = sum(powers)
    return [power / whole for power in powers]


def kl(p: Sequence[float], q: Sequence[float], *, base: float = 2.0) -> float:
    """KL(P || Q) = sum p log(p / q), at least 0; infinite where q is 0 and p is not."""
    if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return math.inf
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0) / math.log(base)


def js(p: Sequence[float], q: Sequence[float], *, base: float = 2.0) -> float:
    """Jensen-Shannon divergence: the mean KL of P and Q to their middle, from 0 to log_base 2 (1 for base 2).

    Source: Lin 1991, https://doi.org/10.1109/18.61115
    """
    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return max((kl(p, middle, base=base) + kl(q, middle, base=base)) / 2, 0.0)
