"""The share of a model's probability that lies on the answers that it is scored by.

Scores compare the answers among themselves, so that a model which would say something else, another spelling of the
answers or a thought, is scored all the same. The share tells.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from rl_rerank.engines.base import Capability, Engine
from rl_rerank.paradigms.base import Paradigm, members, traits
from rl_rerank.types import END, Rollout, Sampling

LOW = 0.5
"""Mean share below which a run is warned of."""
PROBED = 16
"""Prompts whose likeliest first token is looked up for the warning."""


class Share(NamedTuple):
    """The mean share of one paradigm's prompts."""

    answers: tuple[str, ...]
    mean: float
    rollouts: Sequence[Rollout]


def shares(rollouts: Sequence[Rollout], paradigm: Paradigm, engine: Engine) -> list[Share]:
    """Compute the mean share of each paradigm whose prompts were scored, over the whole vocabulary.

    Prompts whose log-probabilities are not finite have none; nor have engines that score pairs, or whose values are no
    log-probabilities of a vocabulary.
    """
    if Capability.pair in engine.capabilities:
        return []
    scored: dict[str, list[tuple[Rollout, tuple[str, ...]]]] = defaultdict(list)
    by_name = members(paradigm)
    for rollout in rollouts:
        if rollout.completion.continuations is not None and rollout.judgment.scores:
            asked = by_name.get(rollout.prompt.paradigm, paradigm)
            scored[rollout.prompt.paradigm].append(
                (rollout, _answers(rollout, asked, rollout.completion.continuations))
            )
    found: list[Share] = []
    for group in scored.values():
        each = [_share(rollout.completion.continuations or {}, answers) for rollout, answers in group]
        if max(each) <= 1 + 1e-3:
            answers = max((answers for _, answers in group), key=len)
            found.append(Share(answers, statistics.fmean(each), [rollout for rollout, _ in group]))
    return found


def warning(share: Share, engine: Engine) -> str:
    """Say on which answers too little of the probability lies, and what the model would rather say."""
    prompts = [replace(rollout.prompt, constraint=None) for rollout in share.rollouts[:PROBED]]
    first = Counter(completion.text for [completion] in engine.generate(prompts, Sampling(max_tokens=1)))
    [(text, count)] = first.most_common(1)
    names = ", ".join(repr(answer.removesuffix(END)) for answer in share.answers)
    return (
        f"only {share.mean:.1%} of the probability lies on the answers {names}, which are compared among themselves; "
        f"the likeliest first token is {text!r} for {count} of {len(prompts)} prompts"
    )


def _answers(rollout: Rollout, paradigm: Paradigm, continuations: Mapping[str, float]) -> tuple[str, ...]:
    """The continuations that the prompt may be answered with: labels without a document were scored too."""
    own = traits(paradigm)
    if own.choices is not None:
        possible = own.choices(rollout.prompt)
        return tuple(text for text in continuations if text.removesuffix(END) in possible)
    return tuple(continuations)[: len(rollout.prompt.docids) if own.list_scores == "identifiers" else None]


def _share(continuations: Mapping[str, float], answers: Sequence[str]) -> float:
    """The sum of the answers' probabilities; one that another begins with holds that one's."""
    whole = [a for a in answers if not any(a != other and a.startswith(other) for other in answers)]
    return sum(math.exp(continuations[answer]) for answer in whole)
