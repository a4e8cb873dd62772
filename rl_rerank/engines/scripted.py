"""An engine without a model: answers come from a function. For tests, oracles and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rl_rerank.engines.base import Capability
from rl_rerank.types import Completion, Prompt, Sampling


class Scripted:
    """Answers with `answer(prompt)`, and scores continuations with `score(prompt, continuation)` where given."""

    def __init__(self, answer: Callable[[Prompt], str], score: Callable[[Prompt, str], float] | None = None) -> None:
        self._answer = answer
        self._score = score
        self.capabilities = frozenset({Capability.score}) if score else frozenset[Capability]()
        self.batch_sizes: list[int] = []
        """Prompts of each call so far."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.batch_sizes.append(len(prompts))
        return [[Completion(self._answer(p)) for _ in range(sampling.num_generations)] for p in prompts]

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        if self._score is None:
            raise ValueError("this scripted engine was given no score function")
        self.batch_sizes.append(len(prompts))
        score = self._score
        return [
            Completion("", finish_reason="score", continuations={c: score(p, c) for c in continuations})
            for p in prompts
        ]

    def close(self) -> None:
        """Nothing to free."""
