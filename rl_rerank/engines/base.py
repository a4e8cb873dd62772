"""The interface of engines."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from rl_rerank.types import Completion, Prompt, Sampling


class CapReached(ValueError):
    """Raised when the next request may cost more than the rest of a cap."""


class Capability(StrEnum):
    """Optional capabilities of an engine besides generating text."""

    score = "score"
    """Log-probabilities of given continuations at the answer position."""
    constraint = "constraint"
    """Constrained decoding: answers are restricted to the prompt's format."""
    logprobs = "logprobs"
    """Log-probabilities of the generated tokens."""
    pair = "pair"
    """Only one number per query and document: it answers pointwise prompts and generates no text."""
    duo = "duo"
    """Beside `pair`: also one number per query and two documents, so that it answers scored pairwise prompts."""
    images = "images"
    """Prompts may show images."""


OnCompletion: TypeAlias = Callable[[int, int, Completion], None]
"""Callback `(prompt_index, sample_index, completion)`, called as soon as a completion is ready."""

NO_USAGE: Mapping[str, float] = MappingProxyType({})


class Engine(Protocol):
    """Answers prompts. Batch engines are called with whole rounds."""

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    @property
    def usage(self) -> Mapping[str, float]:
        """Usage of all calls so far, by name; empty for an engine that counts nothing."""
        ...

    def render(self, prompt: Prompt) -> Any:
        """Convert the prompt to the model's input, as JSON values."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        """Generate `sampling.num_generations` completions for each prompt, in order.

        A repeated prompt continues its samples: the second occurrence gets those that follow the first's.
        """
        ...

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        """Score one completion per prompt, with `continuations` filled and no text.

        Each value is the natural log-probability of the continuation's tokens right after the prompt, in float32.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


def report(on_completion: OnCompletion | None, answers: Sequence[Sequence[Completion]]) -> None:
    """Report all completions to `on_completion`, if one is given."""
    if on_completion is not None:
        for place, samples in enumerate(answers):
            for sample, answer in enumerate(samples):
                on_completion(place, sample, answer)
