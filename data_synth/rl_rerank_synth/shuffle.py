"""Candidates in random order."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample


@dataclass(frozen=True)
class Shuffle:
    """Shuffles candidates, so that no place in the list reveals a label; each keeps its first-stage rank and score."""

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples, with the order of their candidates decided by the seed and the qid."""
        for example in examples:
            order = list(example.candidates)
            random.Random(context.seed(example.qid)).shuffle(order)
            yield replace(example, candidates=tuple(order))
