"""The walk over the training examples that all steps share."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.types import Prompt, RankingExample

PASSES = 8
"""At most so many times over the examples."""


def questions(
    examples: Sequence[RankingExample], paradigm: Paradigm, seed: int
) -> Iterator[tuple[RankingExample, Prompt]]:
    """Prompts in a seeded order, none twice. Later passes show the documents in another order, or others of them."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for walk in range(PASSES):
        before = len(seen)
        order = list(examples)
        random.Random(f"{seed}:{paradigm.name}:{walk}").shuffle(order)
        for example in order:
            for prompt in paradigm.prompts(example, random.Random(f"{seed}:{paradigm.name}:{walk}:{example.qid}")):
                if (example.qid, prompt.docids) not in seen:
                    seen.add((example.qid, prompt.docids))
                    yield example, prompt
        if len(seen) == before:
            return
