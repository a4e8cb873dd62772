"""What an engine is."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from rl_rerank.types import Completion, Prompt, Sampling


class Capability(StrEnum):
    """What an engine can do beyond generating text."""

    score = "score"
    """Log-probabilities of given continuations at the answer position."""
    constraint = "constraint"
    """Answers held to the form that a prompt asks for."""
    logprobs = "logprobs"
    """Log-probabilities of the sampled tokens."""


class Engine(Protocol):
    """Answers prompts. Batch engines are called with whole rounds."""

    capabilities: frozenset[Capability]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.num_generations` completions for each prompt, in order."""
        ...

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        """One completion a prompt, with `continuations` filled and no text.

        Each value is the natural log-probability of the continuation's tokens right after the prompt, in float32.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...
