"""An engine whose answers are kept: only what the journal lacks is asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rl_rerank import journal
from rl_rerank.engines.base import Capability, Engine, Sink
from rl_rerank.engines.decode import draws
from rl_rerank.journal import Journal
from rl_rerank.types import Completion, Prompt, Sampling


class Journaled:
    """Gives the answers that `engine` would give, from the journal where they stand there.

    Each sample of a prompt is an answer of its own, and is written as soon as the engine tells it. A greedy prompt that
    occurs several times is asked once.

    Args:
        identity: which model answers, so that answers of another are never taken for its own.
    """

    def __init__(self, engine: Engine, answers: Journal, identity: Mapping[str, Any]) -> None:
        self.engine = engine
        self.journal = answers
        self.identity = identity
        self._counts = Counter(asked=0, from_journal=0)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.engine.capabilities

    @property
    def usage(self) -> Mapping[str, float]:
        """What the engine counts, and how many answers were asked for and how many the journal had."""
        return {**self.engine.usage, **self._counts}

    def asked(self, prompt: Prompt) -> Any:
        return self.engine.asked(prompt)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, done: Sink | None = None
    ) -> list[list[Completion]]:
        keys = self._keys(prompts, sampling)
        every = [key for numbered in keys for key in numbered.values()]
        known = self.journal.answers(every)
        self._count(len(every), len(set(every) - known.keys()))
        # Prompts that lack the same samples are asked together, and equal ones once.
        lacking: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)
        for place, numbered in enumerate(keys):
            for first, count in _runs([number for number, key in numbered.items() if key not in known]):
                lacking[first, count].setdefault(numbered[first], place)
        for (first, count), some in lacking.items():
            places = list(some.values())
            self.engine.generate(
                [prompts[place] for place in places],
                replace(sampling, first=first, num_generations=count),
                self._keep([[keys[place][first + i] for i in range(count)] for place in places]),
            )
        return self._found([list(numbered.values()) for numbered in keys], done)

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], done: Sink | None = None
    ) -> list[Completion]:
        keys = [
            journal.key(self.identity, self.asked(p), sampling=None, sample=0, continuations=continuations)
            for p in prompts
        ]
        known = self.journal.answers(keys)
        lacking = {key: place for place, key in enumerate(keys) if key not in known}
        self._count(len(keys), len(lacking))
        if lacking:
            asked = [prompts[place] for place in lacking.values()]
            self.engine.score(asked, continuations, self._keep([[key] for key in lacking]))
        return [answer for [answer] in self._found([[key] for key in keys], done)]

    def close(self) -> None:
        self.engine.close()
        self.journal.close()

    def _keys(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[dict[int, str]]:
        """Number of a sample -> its key, for each prompt."""
        sent = [self.asked(prompt) for prompt in prompts]
        firsts = (
            [first for _, first in draws(sent, sampling)] if sampling.temperature > 0 else [sampling.first] * len(sent)
        )
        return [
            {
                number: journal.key(self.identity, asked, sampling=sampling, sample=number, continuations=())
                for number in range(first, first + sampling.num_generations)
            }
            for asked, first in zip(sent, firsts, strict=True)
        ]

    def _keep(self, keys: Sequence[Sequence[str]]) -> Sink:
        """Writes what an engine tells under the key of its prompt and sample."""
        return lambda place, sample, answer: self.journal.add(keys[place][sample], answer, self.identity)

    def _found(self, keys: Sequence[Sequence[str]], done: Sink | None) -> list[list[Completion]]:
        """The answers as the journal has them, so that they are the same now and when they are asked for again."""
        known = self.journal.answers(key for row in keys for key in row)
        rows = [[known[key] for key in row] for row in keys]
        if done is not None:
            for place, row in enumerate(rows):
                for sample, answer in enumerate(row):
                    done(place, sample, answer)
        return rows

    def _count(self, wanted: int, lacking: int) -> None:
        self._counts["asked"] += lacking
        self._counts["from_journal"] += wanted - lacking


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """(first, length) of every run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs
