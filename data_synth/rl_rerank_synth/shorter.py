"""What the steps that shorten lists have in common."""

from collections.abc import Collection
from dataclasses import replace

from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample


def only(example: RankingExample, docids: Collection[str]) -> RankingExample:
    """The example with these candidates alone, their places in its order, their scores, and the answers about them."""
    kept = set(docids)
    return replace(
        example,
        candidates=tuple(c for c in example.candidates if c.docid in kept),
        order=None if example.order is None else tuple(d for d in example.order if d in kept),
        scores=None if example.scores is None else {d: s for d, s in example.scores.items() if d in kept},
        teachers=tuple(output for output in example.teachers if kept.issuperset(output.docids)),
    )


def one_grade(example: RankingExample, docids: Collection[str], context: StepContext) -> bool:
    """Whether all the documents have one grade; the step then drops them, and `one_grade` counts it."""
    found = len({example.gain(docid) for docid in docids}) < 2
    if found:
        context.counts["one_grade"] += 1
    return found
