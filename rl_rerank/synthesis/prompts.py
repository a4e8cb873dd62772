"""The training prompts of examples, in a seeded order."""

import random
from collections.abc import Callable, Iterator, Sequence

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.types import Prompt, RankingExample

PASSES = 8
"""Maximum number of passes over the examples."""


def questions(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    seed: int,
    seen_as: Callable[[RankingExample], RankingExample] = lambda example: example,
) -> Iterator[tuple[RankingExample, Prompt]]:
    """Yield distinct prompts in a seeded order. Later passes show other orders or selections of documents.

    Args:
        seen_as: maps an example to the version that the prompt shows.
    """
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for walk in range(PASSES):
        before = len(seen)
        for example in map(seen_as, shuffled(examples, f"{seed}:{paradigm.name}:{walk}")):
            for prompt in prompts(example, paradigm, seed, walk):
                if (example.qid, prompt.docids) not in seen:
                    seen.add((example.qid, prompt.docids))
                    yield example, prompt
        if len(seen) == before:
            return


def prompts(example: RankingExample, paradigm: Paradigm, seed: int, walk: int) -> list[Prompt]:
    """Make the prompts of one pass."""
    return paradigm.prompts(example, random.Random(f"{seed}:{paradigm.name}:{walk}:{example.qid}"))


def shuffled(examples: Sequence[RankingExample], seed: str) -> Iterator[RankingExample]:
    """Iterate over all examples in a seeded order, reading each lazily."""
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    return (examples[place] for place in order)
