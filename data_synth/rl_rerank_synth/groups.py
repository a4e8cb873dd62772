"""Small lists out of a long labelled one, as GroupRank makes its training groups."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.shorter import only


@dataclass(frozen=True)
class Groups:
    """For each size a sample at even intervals of the gold order, with the labels that the long list has.

    A list of n gives a group of s the documents at places o, o + d, o + 2d, ... of its order, d being n // s and o a
    random place with which they fit. Teachers label the long list once for all sizes. Source: GroupRank,
    https://arxiv.org/abs/2511.11653; that the beginning is random is ours. Answers about the long list are left behind.
    """

    smallest: int = 5
    largest: int = 20
    number: int | None = None
    """Groups of one list, their sizes drawn without repetition; null: one of every size."""

    def __post_init__(self) -> None:
        if not 2 <= self.smallest <= self.largest or (self.number is not None and self.number < 1):
            raise ValueError(
                f"groups: 2 <= smallest <= largest must hold, and number be at least 1 or null; got "
                f"smallest={self.smallest}, largest={self.largest}, number={self.number}"
            )

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The groups, under qids `QID-gSIZE`; a list that is shorter than a size gives none of it."""
        for example in examples:
            if example.order is None:
                raise LookupError(f"qid {example.qid!r} has no gold order; a step such as rank gives one")
            rng = random.Random(context.seed(example.qid))
            sizes = [s for s in range(self.smallest, self.largest + 1) if s <= len(example.order)]
            chosen = sizes if self.number is None else sorted(rng.sample(sizes, min(self.number, len(sizes))))
            for size in chosen:
                step = len(example.order) // size
                start = rng.randrange(len(example.order) - (size - 1) * step)
                small = only(example, example.order[start : start + size * step : step])
                said = {**example.provenance, "query": example.qid, context.name: f"{size} at intervals of {step}"}
                yield replace(small, qid=f"{example.qid}-g{size}", teachers=(), provenance=said)
