"""What a paradigm is: prompts for training, a parser, and a strategy for inference."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from typing import Protocol, TypeAlias

from rl_rerank.types import Completion, Judgment, Prompt, Ranking, RankingExample

Strategy: TypeAlias = Generator[list[Prompt], list[Judgment], Ranking]
"""Yields rounds of prompts that may be answered together, is sent one judgment a prompt, returns the ranking."""


class Paradigm(Protocol):
    """One way of asking. Implementations are frozen dataclasses whose fields are its parameters."""

    name: str

    @property
    def max_completion_tokens(self) -> int:
        """How many tokens the longest well-formed answer may take."""
        ...

    @property
    def continuations(self) -> tuple[str, ...]:
        """What is scored at the answer position instead of generating at inference; empty for generating paradigms."""
        ...

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        """The question about these candidates of the example, shown in this order."""
        ...

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        """Training prompts, candidates shuffled by `rng`. Empty where the example cannot teach (one grade only)."""
        ...

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        """The well-formed answer that the example's labels call for."""
        ...

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        """Read a completion: strict takes the exact form only, lenient mends and lists what it mended. Never raises."""
        ...

    def strategy(self, example: RankingExample) -> Strategy:
        """Rank the example's candidates, given in the order to be shown. Does no I/O."""
        ...
