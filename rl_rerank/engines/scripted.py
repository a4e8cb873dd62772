"""An engine whose answers come from a function instead of a model, for tests, oracles and dry runs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rl_rerank.engines.base import NO_USAGE, Capability, OnCompletion
from rl_rerank.types import Completion, Prompt, Sampling


class Scripted:
    """Answers with `answer(prompt)`, and scores continuations with `score(prompt, continuation)` if given."""

    usage = NO_USAGE

    def __init__(self, answer: Callable[[Prompt], str], score: Callable[[Prompt, str], float] | None = None) -> None:
        self._answer = answer
        self._score = score
        self.capabilities = frozenset({Capability.score}) if score else frozenset[Capability]()
        self.batch_sizes: list[int] = []
        """Prompts of each call so far."""

    def render(self, prompt: Prompt) -> Any:
        return asdict(prompt)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        self.batch_sizes.append(len(prompts))
        found: list[list[Completion]] = []
        for place, prompt in enumerate(prompts):
            found.append([])
            for sample in range(sampling.num_generations):
                found[-1].append(Completion(self._answer(prompt)))
                if on_completion is not None:
                    on_completion(place, sample, found[-1][-1])
        return found

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        if self._score is None:
            raise ValueError("this scripted engine was given no score function")
        self.batch_sizes.append(len(prompts))
        found: list[Completion] = []
        for place, prompt in enumerate(prompts):
            values = {text: self._score(prompt, text) for text in continuations}
            found.append(Completion("", finish_reason="score", continuations=values))
            if on_completion is not None:
                on_completion(place, 0, found[-1])
        return found

    def close(self) -> None:
        """Nothing to free."""
