"""Pipeline: paradigms one after another, each over the top of the order that the last one left.

    paradigm: pipeline
    paradigms:
      pipeline:
        params:
          stages:
            - paradigm: pointwise
            - {paradigm: listwise, depth: 30, params: {window: 10}}

As in multi-stage ranking with monoT5 and duoT5 (Pradeep et al. 2021), https://arxiv.org/abs/2101.05667: a cheap
paradigm sorts the whole list, a dear one its top. A stage's parameters stand with it; those that the experiment gives
the same paradigm elsewhere are not read.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

from rl_rerank.paradigms.base import Paradigm, Strategy
from rl_rerank.paradigms.build import make
from rl_rerank.paradigms.ordering import counts, rank_by_order
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample

SETTINGS = ("paradigm", "depth", "params")


class Step(NamedTuple):
    """One stage of a pipeline."""

    label: str
    """The name that its prompts bear."""
    paradigm: Paradigm
    depth: int | None
    """Documents from the top of the order that are ranked; None: all."""


@dataclass(frozen=True)
class Pipeline:
    stages: Sequence[Mapping[str, Any]]
    """`{paradigm, depth, params}` each; without depth a stage ranks everything, without params it has its defaults."""

    name = "pipeline"
    continuations = ()

    def __post_init__(self) -> None:
        if not isinstance(self.stages, (list, tuple)) or not self.stages:
            raise ValueError(f"pipeline: stages must be a list of at least one stage; got {self.stages!r}")
        for number, stage in enumerate(self.stages, start=1):
            _check(number, stage)
        _ = self.steps  # A name or a parameter that does not exist is refused now.

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The stages, in order."""
        built: list[Step] = []
        seen: Counter[str] = Counter()
        for stage in self.stages:
            paradigm = make(stage["paradigm"], stage.get("params") or {})
            seen[paradigm.name] += 1
            again = f"#{seen[paradigm.name]}" if seen[paradigm.name] > 1 else ""
            built.append(Step(f"{paradigm.name}{again}", paradigm, stage.get("depth")))
        return tuple(built)

    @property
    def members(self) -> dict[str, Paradigm]:
        """The paradigms that ask, by the name on their prompts."""
        return {step.label: step.paradigm for step in self.steps}

    @property
    def max_completion_tokens(self) -> int:
        return max(step.paradigm.max_completion_tokens for step in self.steps)

    def prompt(self, example: RankingExample, docids: Sequence[str]) -> Prompt:
        self._refuse()

    def prompts(self, example: RankingExample, rng: random.Random) -> list[Prompt]:
        self._refuse()

    def target(self, example: RankingExample, prompt: Prompt) -> str:
        self._refuse()

    def parse(self, prompt: Prompt, completion: Completion, *, strict: bool) -> Judgment:
        return self.members[prompt.paradigm].parse(prompt, completion, strict=strict)

    def strategy(self, example: RankingExample) -> Strategy:
        order = _first_stage_order(example)
        shown, done = example.docids, []
        for step in self.steps:
            top = set(order[: step.depth])
            # Neighbours of a document are those that the last stage put beside it.
            places = {docid: rank for rank, docid in enumerate(order, start=1)}
            candidates = [replace(example.candidate(d), rank=places[d]) for d in shown if d in top]
            ranking = yield from _ask(step, replace(example, candidates=tuple(candidates)))
            order = shown = (*ranking.docids, *order[len(top) :])
            done.append(ranking)
        return replace(rank_by_order(example.qid, order), **counts(done))

    def _refuse(self) -> NoReturn:
        names = ", ".join(self.members)
        raise ValueError(
            f"a pipeline ({names}) has no prompt of its own, so it can neither be trained nor exported; train one of "
            "its paradigms, and set the pipeline on a rerank stage"
        )


def _ask(step: Step, example: RankingExample) -> Strategy:
    """The step's strategy, its prompts under the step's label: two stages may be of one paradigm."""
    strategy = step.paradigm.strategy(example)
    try:
        prompts = next(strategy)
        while True:
            judgments = yield [replace(prompt, paradigm=step.label) for prompt in prompts]
            prompts = strategy.send(judgments)
    except StopIteration as stop:
        return stop.value


def _first_stage_order(example: RankingExample) -> tuple[str, ...]:
    """By rank, since the documents may be shown in another order; as shown where ranks are not known."""
    ranks = {c.docid: c.rank for c in example.candidates if c.rank is not None}
    if len(ranks) < len(example.candidates):
        return example.docids
    return tuple(sorted(example.docids, key=lambda docid: ranks[docid]))


def _check(number: int, stage: Any) -> None:
    place = f"pipeline: stage {number}"
    if not isinstance(stage, Mapping) or "paradigm" not in stage:
        raise ValueError(f"{place} must be a mapping with a paradigm, such as {{paradigm: pointwise}}; got {stage!r}")
    if unknown := [key for key in stage if key not in SETTINGS]:
        raise ValueError(f"{place} has no setting {unknown[0]!r}; it has: {', '.join(SETTINGS)}")
    if stage["paradigm"] == "pipeline":
        raise ValueError(f"{place} is a pipeline itself; list its stages instead")
    depth = stage.get("depth")
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 2):
        raise ValueError(f"{place}: depth must be at least 2, or absent for all documents; got {depth!r}")
