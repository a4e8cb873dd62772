"""Fewer negatives."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.shorter import only


@dataclass(frozen=True)
class Balance:
    """At most `ratio` candidates that are not relevant for each one that is, at random; the order stays.

    Examples without a relevant candidate are dropped, and counted as `without_positive`.
    """

    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.ratio <= 0:
            raise ValueError(f"balance: ratio must be above 0; got {self.ratio}")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with what is left of their candidates; at least one that is not relevant stays."""
        for example in examples:
            relevant = [docid for docid in example.docids if example.gain(docid)]
            others = [docid for docid in example.docids if not example.gain(docid)]
            if not relevant:
                context.counts["without_positive"] += 1
                continue
            wanted = max(1, round(self.ratio * len(relevant)))
            chosen = random.Random(context.seed(example.qid)).sample(others, min(wanted, len(others)))
            context.counts["documents"] += len(others) - len(chosen)
            yield only(example, [*relevant, *chosen])
