"""Who answers, and how answers are kept with an example. Shared by the steps that ask."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from rl_rerank.engines.base import Engine
from rl_rerank.engines.oracle import Oracle
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.synthesis.step import LABELS, StepContext
from rl_rerank.types import Prompt, Ranking, RankingExample, Rollout, TeacherOutput


def teacher(
    context: StepContext, engine: str, examples: Sequence[RankingExample], paradigm: Paradigm
) -> tuple[Engine, str]:
    """The engine of a step, and what it is called in records.

    Args:
        engine: the step's parameter: `labels`, `model`, the name of one of the stage's engines, or empty for the
            stage's teacher.
    """
    name = engine or context.stage.teacher
    if name == LABELS:
        noise = context.stage.noise
        return Oracle(examples, paradigm.target, noise=noise, fresh=True, seed=context.number), name
    return context.engine(name), name


def output(rollout: Rollout, paradigm: str, who: str) -> TeacherOutput:
    """An answer as it is kept."""
    return TeacherOutput(who, paradigm, rollout.prompt.docids, rollout.completion.text, digest(rollout.prompt))


def digest(prompt: Prompt) -> str:
    """The first 16 digits of the sha256 of everything in a prompt."""
    content = [[message.role, *(asdict(segment) for segment in message.segments)] for message in prompt.messages]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def ranked(
    example: RankingExample, ranking: Ranking, outputs: Iterable[TeacherOutput], name: str, said: str, *, scored: bool
) -> RankingExample:
    """The example with a teacher's order, and its scores where these stand for themselves, as gold.

    Every candidate also has its place and score among its features, under the step's name, for later steps.
    """
    raw = ranking.raw_scores if scored else None
    features = {docid: {f"{name}_rank": float(place)} for place, docid in enumerate(ranking.docids, start=1)}
    for docid, score in (raw or {}).items():
        features[docid][f"{name}_score"] = score
    candidates = tuple(replace(c, features={**c.features, **features[c.docid]}) for c in example.candidates)
    whole = raw is not None and raw.keys() == features.keys()
    labels: dict[str, Any] = {"order": ranking.docids, "scores": dict(raw or {}) if whole else None}
    return replace(
        example,
        candidates=candidates,
        teachers=(*example.teachers, *outputs),
        provenance={**example.provenance, name: said},
        **labels,
    )
