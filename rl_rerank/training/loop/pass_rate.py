"""An adaptive curriculum: queries with a pass rate near one half are sampled most.

A prompt with only good or only bad answers has no learning signal. With p the share of good answers so far, a query is
sampled with a probability proportional to p (1 - p), the variance of one answer. https://arxiv.org/abs/2502.12272 calls
this learnability and takes the prompts with the highest; here they are sampled. Laplace's estimate
p = (good + 1) / (answers + 2) makes unseen queries the likeliest. A floor keeps every query possible, because a
hopeless query may become learnable later.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.io.files import write_json
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop.curriculum import drawn, generator
from rl_rerank.training.loop.training_log import checkpoint_of
from rl_rerank.training.loop.training_prompts import Question, none_teaches
from rl_rerank.types import RankingExample

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

    All processes choose the same, because they have the same counts. Iteration yields the questions chosen so far.

    Args:
        steps: number of steps.
        block: questions per step.
        per_query: use only examples that give exactly this many prompts.
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
    ) -> None:
        self.examples = examples
        self.paradigm = paradigm
        self.renderer = renderer
        self.rates = rates
        self.steps = steps
        self.block = block
        self.seed = seed
        self.per_query = per_query
        self._made: dict[int, list[Question]] = {}

    def __len__(self) -> int:
        return self.steps * self.block

    def __iter__(self) -> Iterator[Question]:
        for questions in self._made.values():
            yield from questions

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | Sequence[Question]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, place = divmod(index, self.block)
        if step not in self._made:
            self._made[step] = self._make(step)
        return self._made[step][place]

    def _make(self, step: int) -> list[Question]:
        """Draw without repetition, starting over when a step has more prompts than the examples."""
        rng = generator(f"{self.seed}:{step}")
        weights = np.array([self.rates.weight(example.qid) for example in self.examples])
        found: list[Question] = []
        query, times = step * self.block, 0
        while len(found) < self.block:
            before = len(found)
            for number in drawn(weights, rng):
                example = self.examples[number]
                prompts = self.paradigm.prompts(example, random.Random(f"{self.seed}:{step}:{times}:{example.qid}"))
                if not prompts or (self.per_query is not None and len(prompts) != self.per_query):
                    continue
                found += [Question(example, prompt, self.renderer(prompt).token_ids, query) for prompt in prompts]
                query += 1
                if len(found) >= self.block:
                    break
            if len(found) == before:
                raise none_teaches(self.examples, self.paradigm, self.per_query)
            times += 1
        return found[: self.block]


class RatesRecord(TrainerCallback):
    """Saves the counts with every checkpoint before it is marked as complete."""

    def __init__(self, rates: PassRates) -> None:
        self.rates = rates

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_json(checkpoint_of(args, state) / STATE, self.rates.counts)
