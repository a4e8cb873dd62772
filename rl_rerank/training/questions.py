"""The prompts that GRPO trains on: made once from the training examples, in a seeded order."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.rendering import Renderer
from rl_rerank.types import Prompt, RankingExample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A prompt with the example that judges its answers and the token ids that the model sees."""

    example: RankingExample
    prompt: Prompt
    token_ids: tuple[int, ...]
    query: int = 0
    """The same for all prompts made of one example in one pass, and different otherwise."""


def questions(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    *,
    count: int,
    seed: int,
    per_query: int | None = None,
) -> list[Question]:
    """`count` questions: passes over the examples in a fresh order, candidates reshuffled in every pass.

    Args:
        per_query: take only examples that give just so many prompts, so that every block of as many is one query.

    Raises:
        ValueError: if no example yields a prompt, as when all candidates of every query have the same grade.
    """
    found: list[Question] = []
    epoch = query = left_out = 0
    while len(found) < count:
        order = list(examples)
        random.Random(f"{seed}:{epoch}").shuffle(order)
        before = len(found)
        for example in order:
            prompts = paradigm.prompts(example, random.Random(f"{seed}:{epoch}:{example.qid}"))
            if prompts and per_query is not None and len(prompts) != per_query:
                left_out += 1
                continue
            found += [Question(example, prompt, renderer(prompt).token_ids, query) for prompt in prompts]
            query += 1
            if len(found) >= count:
                break
        if len(found) == before:
            few = f", or fewer than the {per_query} prompts that a query needs" if left_out else ""
            raise ValueError(
                f"none of the {len(examples)} training examples gives a {paradigm.name} prompt that can teach: "
                f"every query's candidates have the same grade{few}"
            )
        epoch += 1
    if left_out:
        logger.warning("%d times an example was left out that does not give %s prompts", left_out, per_query)
    logger.info("%d %s prompts from %d passes over %d examples", count, paradigm.name, epoch, len(examples))
    return found[:count]
