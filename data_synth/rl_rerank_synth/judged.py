"""Negatives that somebody has passed over."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.shorter import one_grade, only


@dataclass(frozen=True)
class Judged:
    """Candidates without a judgment are dropped: on a screen that is logged, those that nobody has looked at.

    Examples that are left with one grade are dropped too, and counted as `one_grade`.
    """

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with their judged candidates."""
        for example in examples:
            kept = [docid for docid in example.docids if docid in example.qrels]
            context.counts["documents"] += len(example.docids) - len(kept)
            if not one_grade(example, kept, context):
                yield only(example, kept)
