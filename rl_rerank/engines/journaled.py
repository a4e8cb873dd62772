"""An engine that keeps its answers in a journal, and asks only for those that the journal lacks."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rl_rerank.engines import journal
from rl_rerank.engines.base import Capability, Engine, OnCompletion
from rl_rerank.engines.decode import draws
from rl_rerank.engines.journal import Journal
from rl_rerank.types import Completion, Prompt, Sampling


class Journaled:
    """An engine that gives the answers of `engine`, from the journal where it has them.

    Each sample of a prompt is an answer of its own, and is written as soon as the engine reports it. A greedy prompt
    that occurs several times is asked once.

    Args:
        identity: the model that answers, so that answers of another model are never taken for its own.
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
        """The engine's counts, and the numbers of answers asked for and found in the journal."""
        return {**self.engine.usage, **self._counts}

    def render(self, prompt: Prompt) -> Any:
        return self.engine.render(prompt)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_completion: OnCompletion | None = None
    ) -> list[list[Completion]]:
        numbered = self._keys(prompts, sampling)
        call = _Call(self, [list(row.values()) for row in numbered], on_completion)
        # An engine takes one range of samples for all prompts of a call, so prompts that lack the same range are asked
        # together. Equal prompts with the same range have the same keys and are asked once. Those with other ranges are
        # in other calls, so no call contains a prompt twice: the engine would number the samples of the second one
        # further on, and draw other answers than those that these keys stand for.
        lacking: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)
        for place, row in enumerate(numbered):
            for first, count in _runs([number for number, key in row.items() if key in call.lacking]):
                lacking[first, count].setdefault(row[first], place)
        for (first, count), some in lacking.items():
            places = list(some.values())
            self.engine.generate(
                [prompts[place] for place in places],
                # Only the range changes: seeds follow from the prompt, the seed and the number of the sample, so the
                # third sample is the same whether the first two are asked for with it or were in the journal.
                replace(sampling, first=first, num_generations=count),
                call.keeping([[numbered[place][first + i] for i in range(count)] for place in places]),
            )
        return call.answers()

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], on_completion: OnCompletion | None = None
    ) -> list[Completion]:
        keys = [
            journal.key(self.identity, self._sent(p), sampling=None, sample=0, continuations=continuations)
            for p in prompts
        ]
        call = _Call(self, [[key] for key in keys], on_completion)
        if lacking := {key: place for place, key in enumerate(keys) if key in call.lacking}:
            asked = [prompts[place] for place in lacking.values()]
            self.engine.score(asked, continuations, call.keeping([[key] for key in lacking]))
        return [answer for [answer] in call.answers()]

    def close(self) -> None:
        self.engine.close()
        self.journal.close()

    def _keys(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[dict[int, str]]:
        """Map the number of each sample to its key, for each prompt."""
        sent = [self._sent(prompt) for prompt in prompts]
        # Sampled prompts that occur again go on behind their own samples, as in every engine. Greedy ones have one
        # answer, so all occurrences keep the same numbers and thus the same keys.
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

    def _sent(self, prompt: Prompt) -> Any:
        """Return the model's input, with the constraint on its answer."""
        form = prompt.constraint
        # Added only where there is one, so that answers to free prompts keep their keys. The same input under a
        # constraint has another distribution of answers.
        return self.render(prompt) if form is None else [self.render(prompt), repr(form)]

    def count(self, asked: int, from_journal: int) -> None:
        """Add to the counts of `usage`."""
        self._counts.update(asked=asked, from_journal=from_journal)


class _Call:
    """One call's answers by their keys; it reports those in the journal at once, and the others as they arrive.

    Attributes:
        lacking: the keys that the journal has no answer for.
    """

    def __init__(self, engine: Journaled, keys: Sequence[Sequence[str]], on_completion: OnCompletion | None) -> None:
        """
        Args:
            keys: a row for each prompt, with a key for each sample.
        """
        self.engine = engine
        self.keys = keys
        self.on_completion = on_completion
        self.places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for place, row in enumerate(keys):
            for sample, key in enumerate(row):
                self.places[key].append((place, sample))
        # One key can stand at several places, where a greedy prompt occurs again; every place is reported, and the
        # engine is asked once.
        self.found = engine.journal.answers(self.places)
        self.lacking = self.places.keys() - self.found.keys()
        engine.count(len(self.lacking), sum(map(len, keys)) - len(self.lacking))
        for key in self.places:
            if key in self.found:
                self._tell(key)

    def keeping(self, keys: Sequence[Sequence[str]]) -> OnCompletion:
        """Make a callback that writes each reported completion under the key of its prompt and sample."""

        def keep(place: int, sample: int, answer: Completion) -> None:
            key = keys[place][sample]
            # Written before it is reported: if the caller fails or the process is killed, the answer is already paid
            # for and the next run finds it.
            self.engine.journal.add(key, answer, self.engine.identity)
            # Read back, so that this run and the next see the same: another process may have written its own answer
            # under the key first, which stays, and JSON may change the type of a value.
            self.found |= self.engine.journal.answers([key])
            self._tell(key)

        return keep

    def answers(self) -> list[list[Completion]]:
        """Return the answers of every prompt."""
        return [[self.found[key] for key in row] for row in self.keys]

    def _tell(self, key: str) -> None:
        for place, sample in self.places[key] if self.on_completion is not None else []:
            self.on_completion(place, sample, self.found[key])  # pyright: ignore[reportOptionalCall]


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, length) of every run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs
