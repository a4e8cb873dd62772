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


def questions(
    examples: Sequence[RankingExample], paradigm: Paradigm, renderer: Renderer, *, count: int, seed: int
) -> list[Question]:
    """`count` questions: passes over the examples in a fresh order, candidates reshuffled in every pass.

    Raises:
        ValueError: if no example yields a prompt, as when all candidates of every query have the same grade.
    """
    found: list[Question] = []
    epoch = 0
    while len(found) < count:
        order = list(examples)
        random.Random(f"{seed}:{epoch}").shuffle(order)
        before = len(found)
        for example in order:
            for prompt in paradigm.prompts(example, random.Random(f"{seed}:{epoch}:{example.qid}")):
                found.append(Question(example, prompt, renderer(prompt).token_ids))
            if len(found) >= count:
                break
        if len(found) == before:
            raise ValueError(
                f"none of the {len(examples)} training examples gives a {paradigm.name} prompt that can teach: "
                "every query's candidates have the same grade"
            )
        epoch += 1
    logger.info("%d %s prompts from %d passes over %d examples", count, paradigm.name, epoch, len(examples))
    return found[:count]
