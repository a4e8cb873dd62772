"""What a reward is, and how weighted terms become one number.

A `Reward` looks at one rollout, a `QueryReward` at all rollouts of a query at once. Either may be a composition of
terms: its method `explain` then gives the values of these beside its own, and they are logged as `NAME/term`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, TypeGuard, runtime_checkable

from rl_rerank.types import RankingExample, Rollout


@runtime_checkable
class Reward(Protocol):
    """Score one rollout. Must be deterministic, picklable and free of torch.

    Return a finite float, also for a malformed completion: there is no way to skip one.

    Two attributes of the class are optional. `paradigms` names those whose completions it can judge; `unclaimed` maps
    properties that `rewards check` demands to the reason why this reward does not have them.
    """

    def __call__(self, example: RankingExample, rollout: Rollout, /) -> float: ...


@runtime_checkable
class QueryReward(Protocol):
    """Score all rollouts of a query together, for rewards that compare documents or siblings.

    Under the same obligations as `Reward`. The trainer hands over every rollout of every prompt of the query, in the
    order of the prompts, and refuses a batch layout in which it could not.
    """

    def score_all(self, example: RankingExample, rollouts: Sequence[Rollout], /) -> Sequence[float]:
        """One value for each rollout, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What a reward made of a rollout."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """Unweighted values of the terms inside a composition, and `gate` where a gate decided."""


@dataclass(frozen=True)
class Term:
    """A reward with its weight in the sum."""

    name: str
    reward: Reward | QueryReward
    weight: float = 1.0

    @property
    def needs_query(self) -> bool:
        """Whether it has to see all rollouts of a query."""
        return is_query_reward(self.reward)


def is_query_reward(reward: Any) -> TypeGuard[QueryReward]:
    """Whether a reward is a `QueryReward`."""
    return hasattr(reward, "score_all")


def weighted(terms: Sequence[Term], example: RankingExample, rollout: Rollout) -> Breakdown:
    """The weighted sum of a composition's terms, each a `Reward`, with their values."""
    parts = {term.name: term.reward(example, rollout) for term in terms}  # pyright: ignore[reportCallIssue]
    return Breakdown(total(terms, parts), parts)


def evaluate(term: Term, example: RankingExample, rollouts: Sequence[Rollout]) -> list[Breakdown]:
    """What one term makes of rollouts of one query.

    Args:
        rollouts: all of the query's where `term.needs_query`.

    Raises:
        ValueError: if the term fails, or gives something that is not a finite number; it names the term, the qid and
            the completion.
    """
    if is_query_reward(term.reward):
        place = f"qid {example.qid!r} and its {len(rollouts)} completions, the first {_shown(rollouts[0])}"
        with_query: Any = getattr(term.reward, "explain_all", term.reward.score_all)
        found = list(_call(term.name, place, with_query, example, rollouts))
        if len(found) != len(rollouts):
            raise ValueError(f"reward {term.name!r} returned {len(found)} values for {place}")
    else:
        alone: Any = getattr(term.reward, "explain", term.reward)
        found = [_call(term.name, _place(example, rollout), alone, example, rollout) for rollout in rollouts]
    return [_checked(term.name, value, example, r) for value, r in zip(found, rollouts, strict=True)]


def total(terms: Sequence[Term], values: Mapping[str, float]) -> float:
    """The weighted sum of `values`."""
    return sum(term.weight * values[term.name] for term in terms)


def _call(name: str, place: str, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as e:
        raise ValueError(f"reward {name!r} failed for {place}: {type(e).__name__}: {e}") from e


def _checked(name: str, found: Any, example: RankingExample, rollout: Rollout) -> Breakdown:
    value = found.value if isinstance(found, Breakdown) else found
    if not isinstance(value, Real) or not math.isfinite(value):  # numpy's scalars are Real too
        raise ValueError(
            f"reward {name!r} returned {value!r} for {_place(example, rollout)}; a reward must return a finite number"
        )
    return found if isinstance(found, Breakdown) else Breakdown(float(value))


def _place(example: RankingExample, rollout: Rollout) -> str:
    return f"qid {example.qid!r} and the completion {_shown(rollout)}"


def _shown(rollout: Rollout) -> str:
    return repr(rollout.completion.text[:200])
