"""The cost of a run, and the systems that no other one beats at their cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_rerank.engines.base import Engine
from rl_rerank.types import Ranking, Rollout


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of ranking all queries of a run."""

    calls: int = 0
    """Answered prompts, retries included."""
    rounds: int = 0
    """Sequential rounds of model calls (latency)."""
    prompt_tokens: int | None = 0
    """None: unknown, because the model neither received token ids nor reported a count."""
    completion_tokens: int | None = 0
    """Generated tokens; scored continuations add none. None: unknown."""
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both runs, side by side: rounds do not add up."""
        return Cost(
            self.calls + other.calls,
            max(self.rounds, other.rounds),
            _sum(self.prompt_tokens, other.prompt_tokens),
            _sum(self.completion_tokens, other.completion_tokens),
            self.seconds + other.seconds,
        )

    @property
    def tokens(self) -> int | None:
        """Of prompts and completions together; None: unknown."""
        return _sum(self.prompt_tokens, self.completion_tokens)


def cost(rankings: Sequence[Ranking], rollouts: Sequence[Rollout], engine: Engine, seconds: float) -> Cost:
    """The cost of `rankings`; `rollouts` are all their prompts and answers, the first ones of the engine."""
    counted = _prompt_tokens(rollouts, engine), _completion_tokens(rollouts)
    told = engine.usage if engine.usage.get("calls") == len(rollouts) else {}
    prompt_tokens, completion_tokens = (
        int(told[name]) if tokens is None and name in told else tokens
        for name, tokens in zip(("prompt_tokens", "completion_tokens"), counted, strict=True)
    )
    return Cost(
        calls=len(rollouts),
        rounds=max((ranking.rounds for ranking in rankings), default=0),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        seconds=round(seconds, 3),
    )


def read_cost(path: Path) -> Cost:
    """The cost in a rerank stage's `summary.json`.

    Raises:
        ValueError: if it holds none.
    """
    found = json.loads(path.read_text(encoding="utf-8")).get("cost")
    if found is None:
        raise ValueError(f"{path} does not say what the run cost; remove {path.parent} and run the stage again")
    return Cost(**found)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (cost, quality) points that no other one dominates, cheapest first.

    One point dominates another if it costs no more, is no worse, and is better in one of the two.
    """
    ordered = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in ordered:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def _prompt_tokens(rollouts: Sequence[Rollout], engine: Engine) -> int | None:
    total = 0
    for rollout in rollouts:
        if rollout.completion.prompt_tokens is not None:
            total += rollout.completion.prompt_tokens
            continue
        sent = engine.render(rollout.prompt)
        if not isinstance(sent, (list, tuple)) or not all(isinstance(token, int) for token in sent):
            return None
        total += len(sent)
    return total


def _completion_tokens(rollouts: Sequence[Rollout]) -> int | None:
    made = [rollout.completion for rollout in rollouts]
    return None if any(c.text and not c.token_ids for c in made) else sum(len(c.token_ids) for c in made)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
