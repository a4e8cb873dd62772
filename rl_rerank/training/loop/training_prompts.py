"""GRPO's training prompts: passes over the training examples in a seeded order, made when they are asked for."""

from __future__ import annotations

import logging
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count as numbers
from typing import overload

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.prompts.token_ids import TokenIds
from rl_rerank.ranking.long_documents import view
from rl_rerank.training.loop.curriculum import FirstStage
from rl_rerank.training.loop.on_index import KEPT
from rl_rerank.types import Prompt, RankingExample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A prompt with its token ids and the example that its answers are judged by."""

    example: RankingExample
    prompt: Prompt
    token_ids: Sequence[int]
    query: int = 0
    """Number shared by all prompts of one example in one pass, and by no others."""


class Questions(Sequence[Question]):
    """`count` questions in passes over the examples, with order and candidates reshuffled in every pass.

    A question is made when it is asked for, and its prompt is rendered when its tokens are. Which example it is of
    depends on how many prompts those before it give, so these are read as well, and numbers of them are kept.

    Args:
        per_query: use only examples that give exactly this many prompts, so that each block of that size is one query.
        curriculum: the order of each pass; None: random.
        step_size: questions per optimizer step, the unit of a curriculum.
        long_documents: how documents are cut or summarised; None: they are not.

    Raises:
        ValueError: if no example yields a prompt, for instance because every query's candidates share one grade.
    """

    def __init__(
        self,
        examples: Sequence[RankingExample],
        paradigm: Paradigm,
        renderer: Renderer,
        *,
        count: int,
        seed: int,
        per_query: int | None = None,
        curriculum: FirstStage | None = None,
        step_size: int = 1,
        long_documents: LongDocumentsConfig | None = None,
    ) -> None:
        self._examples = examples
        self._paradigm = paradigm
        self._renderer = renderer
        self._count = count
        self._seed = seed
        self._per_query = per_query
        self._curriculum = curriculum
        self._step_size = step_size
        self._long_documents = long_documents or LongDocumentsConfig()
        # For each example that gives prompts, in training order: its first question, its pass and its place.
        self._first, self._epochs, self._places = array("Q"), array("I"), array("I")
        self._found = 0
        self._made = lru_cache(KEPT)(self._make)
        self._walk = self._walked()
        self._reach(0)
        logger.info("%d %s prompts of %d examples", count, paradigm.name, len(examples))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> list[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | list[Question]:
        numbers = range(self._count)[index]
        return self._question(numbers) if isinstance(numbers, int) else [self._question(n) for n in numbers]

    def _question(self, number: int) -> Question:
        self._reach(number)
        query = bisect_right(self._first, number) - 1
        return self._made(self._epochs[query], self._places[query], query)[number - self._first[query]]

    def _make(self, epoch: int, place: int, query: int) -> list[Question]:
        """Make all questions about an example."""
        example = view(self._examples[place], self._long_documents).example
        prompts = self._paradigm.prompts(example, random.Random(f"{self._seed}:{epoch}:{example.qid}"))
        return [Question(example, prompt, TokenIds(prompt, self._renderer), query) for prompt in prompts]

    def _reach(self, number: int) -> None:
        while self._found <= number:
            next(self._walk)

    def _walked(self) -> Iterator[None]:
        """Record the next example that gives prompts at every step, without end."""
        left_out = False
        for epoch in numbers():
            before = self._found
            for place in self._order(epoch):
                prompts = len(self._made(epoch, place, len(self._first)))
                if prompts and self._per_query not in (None, prompts):
                    if not left_out:
                        told = "examples that do not give %d prompts are left out, such as qid %r, which gives %d"
                        logger.warning(told, self._per_query, self._examples[place].qid, prompts)
                    left_out = True
                    continue
                self._first.append(self._found)
                self._epochs.append(epoch)
                self._places.append(place)
                self._found += prompts
                yield
            if self._found == before:
                raise none_teaches(self._examples, self._paradigm, self._per_query if left_out else None)

    def _order(self, epoch: int) -> Iterable[int]:
        """The places of the examples in a pass."""
        seed = f"{self._seed}:{epoch}"
        if self._curriculum is not None:
            return self._curriculum.one_pass(seed, lambda: self._found // self._step_size)
        order = array("I", range(len(self._examples)))
        random.Random(seed).shuffle(order)
        return order


def none_teaches(examples: Sequence[RankingExample], paradigm: Paradigm, per_query: int | None) -> ValueError:
    """Build the error for examples that give no prompt, or never as many as `per_query`."""
    few = "" if per_query is None else f", or fewer than the {per_query} prompts that a query needs"
    return ValueError(
        f"none of the {len(examples)} training examples gives a {paradigm.name} prompt that can teach: every query's "
        f"candidates have the same grade{few}"
    )
