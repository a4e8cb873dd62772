"""What a reward is, and how weighted terms become one number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol, runtime_checkable

from rl_rerank.types import RankingExample, Rollout


@runtime_checkable
class Reward(Protocol):
    """Score one rollout. Must be deterministic, picklable and free of torch.

    Return a finite float, also for a malformed completion: there is no way to skip one.
    """

    def __call__(self, example: RankingExample, rollout: Rollout, /) -> float: ...


@dataclass(frozen=True)
class Term:
    """A reward with its weight in the sum."""

    name: str
    reward: Reward
    weight: float = 1.0


def score(terms: Sequence[Term], example: RankingExample, rollout: Rollout) -> dict[str, float]:
    """The unweighted value of every term, by name.

    Raises:
        ValueError: if a term returns something that is not a finite number; it names the term, the qid and the text.
    """
    values: dict[str, float] = {}
    for term in terms:
        value = term.reward(example, rollout)
        if not isinstance(value, Real) or not math.isfinite(value):  # numpy's scalars are Real too
            raise ValueError(
                f"reward {term.name!r} returned {value!r} for qid {example.qid!r} and the completion "
                f"{rollout.completion.text[:200]!r}; a reward must return a finite number"
            )
        values[term.name] = float(value)
    return values


def total(terms: Sequence[Term], values: Mapping[str, float]) -> float:
    """The weighted sum of `values`."""
    return sum(term.weight * values[term.name] for term in terms)
