"""The driver: runs the strategies of many queries against one engine, all ready prompts in one round."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from tqdm import tqdm

from rl_rerank import registry
from rl_rerank.config import Config, PluginConfig
from rl_rerank.engines.base import Capability, Engine
from rl_rerank.paradigms.base import Paradigm, Strategy
from rl_rerank.types import Judgment, Prompt, Ranking, RankingExample, Rollout, Sampling

logger = logging.getLogger(__name__)


def build_paradigm(config: Config, name: str) -> Paradigm:
    """The paradigm `name` with the parameters that the configuration gives it."""
    plugin = config.paradigms.get(name, PluginConfig())
    return cast(Paradigm, registry.build("paradigm", plugin.name or name, plugin.params, target=plugin.target))


def shuffled(example: RankingExample, seed: int) -> RankingExample:
    """The example with its candidates in an order that depends on the seed and the qid only."""
    candidates = list(example.candidates)
    random.Random(f"{seed}:{example.qid}").shuffle(candidates)
    return replace(example, candidates=tuple(candidates))


@dataclass
class _Query:
    """One query's strategy and what it waits for."""

    index: int
    strategy: Strategy
    prompts: list[Prompt] = field(default_factory=list)
    ranking: Ranking | None = None

    def resume(self, judgments: list[Judgment] | None) -> None:
        try:
            self.prompts = self.strategy.send(judgments)  # pyright: ignore[reportArgumentType]
        except StopIteration as stop:
            self.prompts, self.ranking = [], stop.value


def rerank(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    engine: Engine,
    *,
    shuffle_seed: int | None = None,
    progress: str | None = None,
) -> tuple[list[Ranking], list[Rollout]]:
    """Rank the candidates of every example.

    Completions are read leniently; what cannot be read keeps the order that the model was shown, and is counted.

    Args:
        shuffle_seed: shows candidates in a seeded random order; None shows them in first-stage order.
        progress: label of a progress bar; None shows none.

    Returns:
        Rankings in the order of the examples, and every prompt with its completion in the order asked. An example
        without candidates gives an empty ranking.

    Raises:
        ValueError: before the first call, if the engine cannot do what the paradigm needs.
    """
    _check(paradigm, engine)
    queries = []
    for index, example in enumerate(examples):
        if not example.candidates:
            logger.warning("qid %r has no candidates: its ranking is empty", example.qid)
        shown = example if shuffle_seed is None else shuffled(example, shuffle_seed)
        queries.append(_Query(index, paradigm.strategy(shown)))
    rollouts: list[Rollout] = []
    for query in queries:
        query.resume(None)
    with tqdm(desc=progress, unit="prompt", disable=progress is None) as bar:
        while waiting := [query for query in queries if query.ranking is None]:
            prompts = [prompt for query in waiting for prompt in query.prompts]
            bar.total = bar.n + len(prompts)
            answered = iter(_ask(prompts, paradigm, engine, strict=False, bar=bar))
            for query in waiting:
                mine = [next(answered) for _ in query.prompts]
                rollouts += mine
                query.resume([rollout.judgment for rollout in mine])
    return [query.ranking for query in queries if query.ranking is not None], rollouts


def answer(prompts: Sequence[Prompt], paradigm: Paradigm, engine: Engine, *, strict: bool = True) -> list[Rollout]:
    """Greedy generated answers to given prompts, also for a paradigm that scores at inference."""
    completions = engine.generate(prompts, Sampling(max_tokens=paradigm.max_completion_tokens))
    return [
        Rollout(prompt, completion, paradigm.parse(prompt, completion, strict=strict))
        for prompt, [completion] in zip(prompts, completions, strict=True)
    ]


CHUNK = 256
"""Prompts between two moves of the progress bar, where there is one; without it a round is one call."""


def _ask(prompts: Sequence[Prompt], paradigm: Paradigm, engine: Engine, *, strict: bool, bar: tqdm) -> list[Rollout]:
    rollouts: list[Rollout] = []
    size = max(len(prompts), 1) if bar.disable else CHUNK
    for start in range(0, len(prompts), size):
        chunk = prompts[start : start + size]
        if paradigm.continuations:
            completions = engine.score(chunk, paradigm.continuations)
        else:
            generated = engine.generate(chunk, Sampling(max_tokens=paradigm.max_completion_tokens))
            completions = [completion for [completion] in generated]
        for prompt, completion in zip(chunk, completions, strict=True):
            rollouts.append(Rollout(prompt, completion, paradigm.parse(prompt, completion, strict=strict)))
        bar.update(len(chunk))
    return rollouts


def _check(paradigm: Paradigm, engine: Engine) -> None:
    if Capability.pair in engine.capabilities:
        if paradigm.name != "pointwise" or len(paradigm.continuations) != 2:
            raise ValueError(
                f"a cross-encoder scores a query with one document, which serves the paradigm 'pointwise' alone; got "
                f"{paradigm.name!r}"
            )
        return
    if paradigm.continuations and Capability.score not in engine.capabilities:
        raise ValueError(
            f"the paradigm {paradigm.name!r} scores {' and '.join(map(repr, paradigm.continuations))} at the answer "
            f"position, which the engine {type(engine).__name__} cannot do; use hf or vllm, or a vLLM server with "
            "engine.args.tokenizer"
        )
