"""The driver, which runs the strategies of many queries against one engine, with all ready prompts in one round."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tqdm import tqdm

from rl_rerank.engines.base import Engine
from rl_rerank.paradigms.answers import NOT_FINITE
from rl_rerank.paradigms.base import Paradigm, Strategy, check_engine, members
from rl_rerank.ranking.aggregate import consensus
from rl_rerank.types import Completion, Judgment, Prompt, Ranking, RankingExample, Rollout, Sampling

logger = logging.getLogger(__name__)


ADVICE = "model.dtype=float16 overflows in many models: use bfloat16 or float32"
RETRY_TEMPERATURE = 0.7
"""Sampling temperature of seeded retries; a greedy retry would repeat the same answer."""


class Samples(NamedTuple):
    """Sampling settings of the answers to a prompt."""

    number: int = 1
    temperature: float = 0.0
    """0 is greedy and makes all answers to a prompt the same."""
    seed: int = 0


GREEDY = Samples()


def shuffled(example: RankingExample, seed: int, repeat: int = 0) -> RankingExample:
    """Shuffle the candidates by the seed, the qid and the repeat only."""
    candidates = list(example.candidates)
    key = f"{seed}:{example.qid}" if repeat == 0 else f"{seed}:{repeat}:{example.qid}"
    random.Random(key).shuffle(candidates)
    return replace(example, candidates=tuple(candidates))


@dataclass
class _Query:
    """One query's strategy with its pending prompts."""

    index: int
    strategy: Strategy
    prompts: list[Prompt] = field(default_factory=list)
    ranking: Ranking | None = None
    num_retries: int = 0
    rounds: int = 0

    def resume(self, judgments: list[Judgment] | None) -> None:
        try:
            self.prompts = self.strategy.send(judgments)  # pyright: ignore[reportArgumentType]
        except StopIteration as stop:
            self.prompts = []
            self.ranking = replace(stop.value, num_retries=self.num_retries, rounds=self.rounds)


def rerank(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    engine: Engine,
    *,
    shuffle_seed: int | None = None,
    retries: int = 0,
    retry_seed: int = 0,
    samples: Samples | None = None,
    progress: str | None = None,
) -> tuple[list[Ranking], list[Rollout]]:
    """Rank the candidates of every example.

    Completions are parsed leniently, and prompts with unreadable answers are retried. If the retries fail too, the
    shown order is kept or scores are imputed from first-stage neighbours, and the failure is counted.

    Args:
        shuffle_seed: shows candidates in a seeded random order; None shows them in first-stage order.
        retries: up to this many retries of a generated answer without scores, at RETRY_TEMPERATURE.
        samples: sampling settings of the answers, whose consensus is taken; None: one greedy answer per prompt.
        progress: label of a progress bar; None shows none.

    Returns:
        Rankings in the order of the examples, and every prompt with its completion in the order of requests, retries
        after the first attempt. An example without candidates gives an empty ranking.

    Raises:
        ValueError: before the first call, if the engine cannot do what the paradigm needs.
    """
    for member in members(paradigm).values():
        check_engine(member, type(engine).__name__, engine.capabilities)
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
            answered = iter(_round(prompts, paradigm, engine, samples or GREEDY, retries, retry_seed, bar))
            for query in waiting:
                mine = [next(answered) for _ in query.prompts]
                rollouts += [rollout for attempts in mine for rollout in attempts]
                query.num_retries += sum(len(attempts) - 1 for attempts in mine)
                query.rounds += max(map(len, mine), default=0)
                query.resume([attempts[-1].judgment for attempts in mine])
    if lost := num_lost(rollouts):
        logger.warning("log-probabilities of %d of %d answers are not finite; %s", lost, len(rollouts), ADVICE)
    return [query.ranking for query in queries if query.ranking is not None], rollouts


def num_lost(rollouts: Sequence[Rollout]) -> int:
    """Count the answers whose log-probabilities are not finite."""
    return sum(any(issue.kind == NOT_FINITE for issue in rollout.judgment.issues) for rollout in rollouts)


def check_finite(rollouts: Sequence[Rollout], place: str = "") -> None:
    """Refuse a ranking none of whose answers has finite log-probabilities: its order would be the shown one.

    Args:
        place: beginning of the error.

    Raises:
        ValueError: naming the likely cause.
    """
    if rollouts and num_lost(rollouts) == len(rollouts):
        raise ValueError(
            f"{place}log-probabilities of all {len(rollouts)} answers are not finite, so nothing was ranked; {ADVICE}, "
            "and check that the model's weights hold no NaN"
        )


def answer(prompts: Sequence[Prompt], paradigm: Paradigm, engine: Engine, *, strict: bool = True) -> list[Rollout]:
    """Generate greedy answers to given prompts, also for a paradigm that scores at inference."""
    completions = engine.generate(prompts, Sampling(max_tokens=paradigm.max_completion_tokens))
    return [
        Rollout(prompt, completion, paradigm.parse(prompt, completion, strict=strict))
        for prompt, [completion] in zip(prompts, completions, strict=True)
    ]


def _round(
    prompts: Sequence[Prompt],
    paradigm: Paradigm,
    engine: Engine,
    samples: Samples,
    retries: int,
    seed: int,
    bar: tqdm,
) -> list[list[Rollout]]:
    """Collect each prompt's answer, followed by those of its retries; the last one counts."""
    attempts = [[rollout] for rollout in _ask(prompts, paradigm, engine, samples, bar)]
    for attempt in range(1, retries + 1):
        unusable = [i for i, made in enumerate(attempts) if not made[-1].judgment.scores and not _was_scored(made[-1])]
        if not unusable:
            break
        again = [prompts[i] for i in unusable]
        sampled = _ask(again, paradigm, engine, Samples(1, RETRY_TEMPERATURE, seed + attempt), bar)
        for i, rollout in zip(unusable, sampled, strict=True):
            attempts[i].append(rollout)
    return attempts


def _was_scored(rollout: Rollout) -> bool:
    return rollout.completion.continuations is not None


def _ask(prompts: Sequence[Prompt], paradigm: Paradigm, engine: Engine, samples: Samples, bar: tqdm) -> list[Rollout]:
    """Get one answer per prompt, or the consensus of several. Prompts with equal demands share a call."""
    bar.total = bar.n + len(prompts)
    demands = {name: _Demand(p.continuations, p.max_completion_tokens) for name, p in members(paradigm).items()}
    own = _Demand(paradigm.continuations, paradigm.max_completion_tokens)
    groups: dict[_Demand, list[int]] = {}
    for i, prompt in enumerate(prompts):
        demand = demands.get(prompt.paradigm, own)
        if continuations := prompt.continuations or demand.continuations:
            demand = _Demand(continuations, 0)
        groups.setdefault(demand, []).append(i)
    completions: dict[int, list[Completion]] = {}
    for demand, places in groups.items():
        asked = [prompts[i] for i in places]
        completions |= zip(places, _complete(asked, demand, engine, samples, bar), strict=True)
    return [
        consensus([Rollout(prompt, c, paradigm.parse(prompt, c, strict=False)) for c in completions[i]])
        for i, prompt in enumerate(prompts)
    ]


class _Demand(NamedTuple):
    """A prompt's demand on the engine: scores of continuations, or else generation."""

    continuations: tuple[str, ...]
    max_tokens: int


def _complete(
    prompts: Sequence[Prompt], demand: _Demand, engine: Engine, samples: Samples, bar: tqdm
) -> list[list[Completion]]:
    def move(*_: object) -> None:
        bar.update()

    # An engine that is to tell of every answer may ask for fewer at a time.
    on_completion = None if bar.disable else move
    if demand.continuations:
        return [[completion] for completion in engine.score(prompts, demand.continuations, on_completion)]
    sampling = Sampling(demand.max_tokens, samples.temperature, num_generations=samples.number, seed=samples.seed)
    return engine.generate(prompts, sampling, on_completion)
