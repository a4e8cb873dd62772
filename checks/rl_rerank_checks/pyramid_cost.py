"""Baidu's mechanism: a model that scores a window of known documents at a fraction of the cost."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rl_rerank.config import trained
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.ranking.long_documents import view
from rl_rerank.requirements import load
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.pyramid.spec import PyramidStage
from rl_rerank_checks import held_out


@dataclass(frozen=True)
class PyramidCost:
    """A pyramid scores windows at the share of the full model's cost that operations give, within a factor.

    Operations follow from the sizes of models and prompts; time is measured here, as the median share of windows. The
    states of documents are known beforehand. The loss in a measure stands beside it.
    """

    full: str
    """The rerank stage of the model that the pyramid came from."""
    student: str
    """The rerank stage of the pyramid."""
    windows: int = 5
    """Queries whose candidates are scored."""
    measure: str = "nDCG@10"
    within: float = 1.5
    """How many times the share of operations that of time may be."""

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise ValueError(f"windows must be at least 1; got {self.windows}")
        if not self.within >= 1:
            raise ValueError(f"within must be at least 1; got {self.within}")

    def refuse(self, run: Run) -> None:
        if self.measure == held_out.REWARD:
            raise ValueError("measure must be one of rankings, such as nDCG@10; got reward")
        held_out.refuse(run, (self.full, self.student), self.measure)
        for stage, is_pyramid in ((self.full, False), (self.student, True)):
            _pointwise(run, stage)
            if _has_pyramid(run, run.rerank(stage).model) != is_pyramid:
                raise ValueError(f"{stage!r} ranks with {'no' if is_pyramid else 'a'} pyramid")
            if (run.rerank(stage).engine or run.config.engine).kind != "hf":
                raise ValueError(f"{stage!r} is not answered by the engine hf, which alone computes pyramids")

    def __call__(self, run: Run) -> list[Finding]:
        found = self._shares(run)
        operations, seconds = (statistics.median(values) for values in zip(*found, strict=True))
        losses = [statistics.fmean(held_out.measured(run, s, self.measure).values()) for s in (self.full, self.student)]
        return [
            Finding(
                f"{self.student}: a window costs the share of {self.full} that its operations give",
                operations < 1 and seconds <= self.within * operations,
                f"{operations:.0%} of the operations, {seconds:.0%} of the time, over {len(found)} windows; "
                f"{self.measure} {losses[1]:.3f}, and {losses[0]:.3f} of {self.full}",
            )
        ]

    def _shares(self, run: Run) -> list[tuple[float, float]]:
        """The pyramid's share of operations and of seconds in each window."""
        paradigm, settings = run.paradigm(self.student), run.rerank(self.student)
        measured = load("rl_rerank.engines.local.pyramid_cost", "the check pyramid_cost")
        full, student = (_engine(run, stage) for stage in (self.full, self.student))
        found: list[tuple[float, float]] = []
        for example in islice((e for e in run.examples(self.student).values() if len(e.docids) > 1), self.windows):
            shown = view(example, settings.long_documents).example
            prompts = [paradigm.prompt(shown, [docid]) for docid in shown.docids]
            if not found:  # an engine compares two ways of computing its first batch, which takes time
                measured.costs(full, student, prompts, paradigm.continuations)
            whole, part = measured.costs(full, student, prompts, paradigm.continuations)
            found.append((part.operations / whole.operations, part.seconds / whole.seconds))
        if not found:
            raise LookupError(f"{self.student!r} ranks no query with two documents")
        return found


def _pointwise(run: Run, stage: str) -> None:
    if not isinstance(run.paradigm(stage), Pointwise):
        raise ValueError(f"{stage!r} ranks with {run.paradigm(stage).name!r}; windows are compared of pointwise ones")
    if run.rerank(stage).long_documents.splits:
        raise ValueError(f"{stage!r} splits documents; choose long_documents.mode=quite or firstp")


def _has_pyramid(run: Run, ref: str) -> bool:
    """Whether a model comes from a pyramid stage."""
    while ref != "model":
        stage = run.config.stages[trained(ref)[0]]
        if isinstance(stage, PyramidStage):
            return True
        ref = stage.start
    return False


def _engine(run: Run, stage: str) -> Any:
    kind = (run.rerank(stage).engine or run.config.engine).settings()
    return kind.build(run.config.model, kind.folder(run.config, run.rerank(stage).model))
