"""An adaptive curriculum: queries with a pass rate near one half are sampled most.

A prompt with only good or only bad answers has no learning signal. With p the share of good answers so far, a query is
sampled with a probability proportional to p (1 - p), the variance of one answer. https://arxiv.org/abs/2502.12272 calls
this learnability and takes the prompts with the highest; here they are sampled. Laplace's estimate
p = (good + 1) / (answers + 2) makes unseen queries the likeliest. A floor keeps every query possible, because a
hopeless query may become learnable later.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.data.indexed import finder
from rl_rerank.io.files import write_json
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.token_ids import TokenIds
from rl_rerank.ranking.long_documents import view
from rl_rerank.training.loop.checkpoints import written_checkpoint
from rl_rerank.training.loop.curriculum import drawn, generator
from rl_rerank.training.loop.training_prompts import Question, none_teaches
from rl_rerank.types import Prompt, RankingExample

KEPT = 2
"""Steps whose questions stay in memory: the last ones that were asked for."""
FLOOR = 0.05
"""Minimum weight of a query, relative to 1 for a pass rate of one half."""
STATE = "curriculum.json"
"""In a checkpoint: qid -> [good answers, answers]."""


class PassRates:
    """The pass rate of each query.

    Args:
        pass_reward: minimum reward of a good answer.
    """

    def __init__(self, pass_reward: float) -> None:
        self.pass_reward = pass_reward
        self.counts: dict[str, list[int]] = {}

    def observe(self, rewards: Iterable[tuple[str, float]]) -> None:
        """Count answers, given as (qid, reward). Every process must receive those of all."""
        for qid, reward in rewards:
            count = self.counts.setdefault(qid, [0, 0])
            count[0] += reward >= self.pass_reward
            count[1] += 1

    def restore(self, checkpoint: Path) -> None:
        """Restore the counts of a checkpoint."""
        self.counts = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))

    def weight(self, qid: str) -> float:
        """Compute a query's weight in [FLOOR, 1]."""
        good, answers = self.counts.get(qid, (0, 0))
        share = (good + 1) / (answers + 2)
        return max(FLOOR, 4 * share * (1 - share))


class AdaptiveQuestions(Sequence[Question]):
    """Questions that are chosen on the first access to their step.

    All processes choose the same, because they have the same counts. Which examples a step asks about is remembered as
    numbers; the questions of the last steps stay in memory.

    Args:
        steps: number of steps.
        block: questions per step.
        per_query: use only examples that give exactly this many prompts.
        long_documents: how documents are cut or summarised; None: they are not.
    """

    def __init__(
        self,
        examples: Sequence[RankingExample],
        paradigm: Paradigm,
        renderer: Renderer,
        rates: PassRates,
        *,
        steps: int,
        block: int,
        seed: int,
        per_query: int | None = None,
        long_documents: LongDocumentsConfig | None = None,
    ) -> None:
        self.examples = examples
        self.paradigm = paradigm
        self.renderer = renderer
        self.rates = rates
        self.steps = steps
        self.block = block
        self.seed = seed
        self.per_query = per_query
        self.long_documents = long_documents or LongDocumentsConfig()
        self._place = finder(examples)
        self._chosen: dict[int, array[int]] = {}
        self._made = lru_cache(KEPT)(self._make)

    def __len__(self) -> int:
        return self.steps * self.block

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | Sequence[Question]:
        numbers = range(len(self))[index]
        return self._question(numbers) if isinstance(numbers, int) else [self._question(n) for n in numbers]

    def _question(self, number: int) -> Question:
        step, place = divmod(number, self.block)
        return self._made(step)[place]

    def _make(self, step: int) -> list[Question]:
        if step not in self._chosen:
            self._chosen[step] = array("Q", (number for pair in self._choose(step) for number in pair))
        chosen, found = iter(self._chosen[step]), list[Question]()
        for query, (times, place) in enumerate(zip(chosen, chosen, strict=True), start=step * self.block):
            example = view(self.examples[place], self.long_documents).example
            prompts = self._prompts(step, times, example)
            found += [Question(example, prompt, TokenIds(prompt, self.renderer), query) for prompt in prompts]
        return found[: self.block]

    def _prompts(self, step: int, times: int, example: RankingExample) -> list[Prompt]:
        return self.paradigm.prompts(example, random.Random(f"{self.seed}:{step}:{times}:{example.qid}"))

    def _choose(self, step: int) -> Iterator[tuple[int, int]]:
        """Draw examples without repetition, starting over when a step has more prompts than they give.

        Yields:
            how often the step has started over, and the place of an example.
        """
        rng, weights = generator(f"{self.seed}:{step}"), self._weights()
        found = times = 0
        while found < self.block:
            before = found
            for place in map(int, drawn(weights, rng)):
                prompts = len(self._prompts(step, times, self.examples[place]))
                if not prompts or self.per_query not in (None, prompts):
                    continue
                yield times, place
                found += prompts
                if found >= self.block:
                    break
            if found == before:
                raise none_teaches(self.examples, self.paradigm, self.per_query)
            times += 1

    def _weights(self) -> NDArray[np.float64]:
        """Compute the weight of each example; 1 before its first prompt is answered."""
        weights = np.ones(len(self.examples))
        for qid in self.rates.counts:
            if (place := self._place(qid)) is not None:
                weights[place] = self.rates.weight(qid)
        return weights


class RatesRecord(TrainerCallback):
    """Saves the counts with every checkpoint before it is finished."""

    def __init__(self, rates: PassRates) -> None:
        self.rates = rates

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_json(written_checkpoint(args, state) / STATE, self.rates.counts)
