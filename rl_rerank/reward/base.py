"""The interfaces of rewards, and the weighted sum of their terms.

A `Reward` scores one rollout, a `QueryReward` all rollouts of a query at once. Either may be a composition of terms:
its method `explain` then returns their values besides its own, and they are logged as `NAME/term`.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import groupby
from math import isfinite
from numbers import Real
from typing import Any, Protocol, TypeGuard, runtime_checkable

from rl_rerank import registry
from rl_rerank.reward.position_based import PositionBased
from rl_rerank.types import RankingExample, Rollout

logger = logging.getLogger(__name__)


class RewardError(ValueError):
    """Raised when a reward fails, times out or gives a value that is not a finite number."""


@runtime_checkable
class Reward(Protocol):
    """Score one rollout. Must be deterministic and free of torch.

    Return a finite float, also for a malformed completion: skipping one is impossible. The fields of `RewardTraits` are
    optional attributes.
    """

    def __call__(self, example: RankingExample, rollout: Rollout, /) -> float: ...


@runtime_checkable
class QueryReward(Protocol):
    """Score all rollouts of a query together, for rewards that compare documents or siblings.

    The requirements of `Reward` apply. The trainer passes every rollout of every prompt of the query, in the order of
    the prompts, and refuses a batch layout that prevents this.
    """

    def score_all(self, example: RankingExample, rollouts: Sequence[Rollout], /) -> Sequence[float]:
        """Score each rollout, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A reward's value of a rollout, with its parts."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """Unweighted values of a composition's terms, and `gate` if a gate set the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTraits:
    """Optional attributes by which a reward describes itself, read by `Term.traits`."""

    paradigms: tuple[str, ...] = ()
    """Paradigms whose completions it can score; empty: any."""
    unclaimed: Mapping[str, str] = field(default_factory=dict)
    """Properties required by `rewards check` that this reward lacks -> the reason."""
    requires: tuple[str, ...] = ()
    """Packages that it needs besides those of rl-rerank itself."""
    asks_model: bool = False
    """Whether it asks or loads a model, so that it is not tried before a run starts."""
    explain: Callable[[RankingExample, Rollout], Breakdown] | None = None
    """Function for a composition's value with those of its terms."""
    explain_group: Callable[[RankingExample, Sequence[Rollout]], Sequence[Breakdown]] | None = None
    """`explain` for several rollouts of one prompt, if batching them is faster."""
    explain_all: Callable[[RankingExample, Sequence[Rollout]], Sequence[Breakdown]] | None = None
    """`explain` for a `QueryReward`."""
    position_based: Callable[[RankingExample, Sequence[str]], PositionBased] | None = None
    """Decomposition of the reward of every well-formed order of these documents into places and gains."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The name and parameters of a reward, from which another process can build it."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None

    def build(self) -> Reward | QueryReward:
        """Build the reward: an instance of a class, or a function or an object as it is.

        Raises:
            LookupError, ImportError, ValueError: for a reward or a parameter that does not exist, a misspelt optional
                attribute, or something that cannot be called with an example and a rollout.
        """
        found = registry.find("reward", self.target or self.name)
        if isinstance(found, type):
            reward = registry.build("reward", self.name, self.params, target=self.target)
            registry.refuse_misspelt("reward", self.name, reward, KNOWN)
        else:
            reward = found
            if self.params:
                parameter = next(iter(self.params))
                raise ValueError(
                    f"reward {self.name!r} has no parameter {parameter!r}: it is no class, and parameters are fields "
                    "of a dataclass"
                )
        self._check_call(reward)
        return reward

    def _check_call(self, reward: object) -> None:
        if is_query_reward(reward):
            return
        what = f"reward {self.name!r} ({self.target or type(reward).__name__})"
        if not callable(reward):
            raise ValueError(f"{what} has neither __call__(example, rollout) nor score_all(example, rollouts)")
        try:
            signature = inspect.signature(reward)
        except ValueError:  # some callables of C have none
            return
        try:
            signature.bind(None, None)
        except TypeError:
            raise ValueError(
                f"{what} takes {signature}, and a reward is called with (example, rollout). A function written for trl "
                "is used by 'reward=[trl_function]' rewards.trl_function.params.function=FILE.py:FUNCTION"
            ) from None


KNOWN = frozenset({"score_all", *(f.name for f in fields(RewardTraits))})


@dataclass(frozen=True)
class Term:
    """A reward with its weight in the sum."""

    name: str
    reward: Reward | QueryReward
    weight: float = 1.0
    failed: float | None = None
    """Value of a completion whose reward raised an error; None raises it."""
    workers: int = 0
    """In training: number of worker processes; 0 runs it in the trainer's process."""
    timeout: float | None = None
    """In training: time limit of one call in seconds, if it has workers; longer calls fail. None: no limit."""

    recipe: Recipe | None = None
    """Recipe for building the reward in another process; required with workers."""

    @cached_property
    def traits(self) -> RewardTraits:
        """The reward's traits."""
        return registry.traits(RewardTraits, self.reward)

    @cached_property
    def needs_query(self) -> bool:
        """Whether it needs all rollouts of a query."""
        return is_query_reward(self.reward)


def is_query_reward(reward: Any) -> TypeGuard[QueryReward]:
    """Whether a reward is a `QueryReward`."""
    return isinstance(reward, QueryReward)


def weighted(terms: Sequence[Term], example: RankingExample, rollout: Rollout) -> Breakdown:
    """Compute the weighted sum of a composition's terms, each a `Reward`, with their values."""
    parts = {term.name: term.reward(example, rollout) for term in terms}  # pyright: ignore[reportCallIssue]
    return Breakdown(total(terms, parts), parts)


def evaluate(term: Term, example: RankingExample, rollouts: Sequence[Rollout]) -> list[Breakdown]:
    """Score rollouts of one query by one term.

    Args:
        rollouts: all rollouts of the query if `term.needs_query`.

    Returns:
        A breakdown for each. If the term fails and `term.failed` is set, its only part is `failed`.

    Raises:
        RewardError: with the term, the qid and the completion, if the term fails or gives a value that is not finite.
    """
    return [found for together in calls(term, rollouts) for found in _evaluate(term, example, together)]


def calls(term: Term, rollouts: Sequence[Rollout]) -> list[Sequence[Rollout]]:
    """Split a query's rollouts into the batches a term is called with: the whole query, one prompt's group, or one
    rollout."""
    if term.needs_query:
        return [rollouts]
    if term.traits.explain_group is not None:
        return [list(group) for _, group in groupby(rollouts, key=lambda rollout: id(rollout.prompt))]
    return [[rollout] for rollout in rollouts]


def instead(term: Term, error: RewardError, rollouts: Sequence[Rollout]) -> list[Breakdown]:
    """The fallback value for rollouts whose reward raised an error.

    Raises:
        RewardError: `error`, if the term has no fallback.
    """
    if term.failed is None:
        raise error
    logger.warning("%s; it counts as %s", error, term.failed)
    return [Breakdown(term.failed, {"failed": term.failed}) for _ in rollouts]


def _evaluate(term: Term, example: RankingExample, rollouts: Sequence[Rollout]) -> list[Breakdown]:
    """Call the term once."""
    try:
        found = _call(term, example, rollouts)
        if len(found) != len(rollouts):
            place = _place(example, rollouts)
            raise RewardError(f"reward {term.name!r} returned {len(found)} values for {place}")
        if _are_finite(found):
            return found
        return [_checked(term.name, value, example, r) for value, r in zip(found, rollouts, strict=True)]
    except RewardError as e:
        if len(rollouts) > 1 and not term.needs_query:  # one by one, to find which it is
            return [found for rollout in rollouts for found in _evaluate(term, example, [rollout])]
        return instead(term, e, rollouts)


def total(terms: Sequence[Term], values: Mapping[str, float]) -> float:
    """Compute the weighted sum of `values`."""
    return sum(term.weight * values[term.name] for term in terms)


def _call(term: Term, example: RankingExample, rollouts: Sequence[Rollout]) -> list[Any]:
    reward: Any = term.reward
    try:
        if term.needs_query:
            return list((term.traits.explain_all or reward.score_all)(example, rollouts))
        if term.traits.explain_group is not None:
            return list(term.traits.explain_group(example, rollouts))
        [rollout] = rollouts
        return [(term.traits.explain or reward)(example, rollout)]
    except Exception as e:
        place = _place(example, rollouts)
        raise RewardError(f"reward {term.name!r} failed for {place}: {type(e).__name__}: {e}") from e


def _are_finite(found: Sequence[Any]) -> bool:
    """Whether all are breakdowns of finite floats, the common case; checking for any real number is slow."""
    return all([type(value) is Breakdown and type(value.value) is float and isfinite(value.value) for value in found])


def _checked(name: str, found: Any, example: RankingExample, rollout: Rollout) -> Breakdown:
    value = found.value if isinstance(found, Breakdown) else found
    if not isinstance(value, Real) or not isfinite(value):  # numpy's scalars are Real too
        place = _place(example, [rollout])
        raise RewardError(f"reward {name!r} returned {value!r} for {place}; a reward must return a finite number")
    return found if isinstance(found, Breakdown) else Breakdown(float(value))


def _place(example: RankingExample, rollouts: Sequence[Rollout]) -> str:
    first = repr(rollouts[0].completion.text[:200])
    if len(rollouts) == 1:
        return f"qid {example.qid!r} and the completion {first}"
    return f"qid {example.qid!r} and its {len(rollouts)} completions, the first {first}"
