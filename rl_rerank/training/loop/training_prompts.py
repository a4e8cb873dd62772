"""GRPO's training prompts, made once from the training examples in a seeded order."""

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.loop.curriculum import FirstStage
from rl_rerank.types import Prompt, RankingExample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A prompt with its token ids and the example that its answers are judged by."""

    example: RankingExample
    prompt: Prompt
    token_ids: tuple[int, ...]
    query: int = 0
    """Number shared by all prompts of one example in one pass, and by no others."""


def questions(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    *,
    count: int,
    seed: int,
    per_query: int | None = None,
    curriculum: FirstStage | None = None,
    step_size: int = 1,
) -> list[Question]:
    """Make `count` questions in passes over the examples, with order and candidates reshuffled in every pass.

    Args:
        per_query: use only examples that give exactly this many prompts, so that each block of that size is one query.
        curriculum: the order of each pass; None: random.
        step_size: questions per optimizer step, the unit of a curriculum.

    Raises:
        ValueError: if no example yields a prompt, for instance because every query's candidates share one grade.
    """
    found: list[Question] = []

    def step() -> int:
        return len(found) // step_size

    epoch = query = left_out = 0
    while len(found) < count:
        order: Iterable[RankingExample]
        if curriculum is None:
            order = list(examples)
            random.Random(f"{seed}:{epoch}").shuffle(order)
        else:
            order = curriculum.one_pass(f"{seed}:{epoch}", step)
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
            raise none_teaches(examples, paradigm, per_query if left_out else None)
        epoch += 1
    if left_out:
        logger.warning("%d times an example was left out that does not give %s prompts", left_out, per_query)
    logger.info("%d %s prompts from %d passes over %d examples", count, paradigm.name, epoch, len(examples))
    return found[:count]


def none_teaches(examples: Sequence[RankingExample], paradigm: Paradigm, per_query: int | None) -> ValueError:
    """Build the error for examples that give no prompt, or never as many as `per_query`."""
    few = "" if per_query is None else f", or fewer than the {per_query} prompts that a query needs"
    return ValueError(
        f"none of the {len(examples)} training examples gives a {paradigm.name} prompt that can teach: every query's "
        f"candidates have the same grade{few}"
    )
