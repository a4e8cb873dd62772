"""One process of a synthesis, which runs chunks of examples through a segment of steps."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rl_rerank.config import Config
from rl_rerank.data import Store
from rl_rerank.synthesis.metered import BudgetReached, Meter, TeacherFailed
from rl_rerank.synthesis.parts import Chunks, Parts, Passages, Queries, Record, walk
from rl_rerank.synthesis.resources import Resources
from rl_rerank.synthesis.step import Step, StepContext, build_step, traits
from rl_rerank.types import RankingExample

if TYPE_CHECKING:
    from rl_rerank.stages.synth.spec import SynthStage

MAX_CONSECUTIVE_FAILURES = 3
"""Consecutive teacher failures after which the run stops."""
UNFINISHED = "unfinished.jsonl"
"""File in the stage's folder with the usage of unfinished chunks."""


class SynthesisStopped(Exception):
    """Raised to stop early, with a reason; the run can be resumed."""


@dataclass(frozen=True)
class Segment:
    """Consecutive steps that run together, over a chunk each or over the whole stream."""

    number: int
    steps: Mapping[str, Step]
    is_whole: bool


def build_steps(stage: SynthStage) -> dict[str, Step]:
    """Build the steps of a stage, by their names in it.

    Raises:
        LookupError, ImportError, ValueError: for a step or a parameter that does not exist.
    """
    return {name: build_step(name, plugin) for name, plugin in stage.steps.items()}


def segments(steps: Mapping[str, Step]) -> list[Segment]:
    """Group consecutive per-example and whole-stream steps; the first segment is always per-example."""
    runs: list[tuple[bool, dict[str, Step]]] = [(False, {})]
    for name, step in steps.items():
        is_whole = traits(step).whole
        if is_whole != runs[-1][0]:
            runs.append((is_whole, {}))
        runs[-1][1][name] = step
    return [Segment(number, run, is_whole) for number, (is_whole, run) in enumerate(runs)]


class Worker:
    """The worker of a process, made once in each."""

    def __init__(self, config: Config, name: str, used: Mapping[str, float]) -> None:
        """Build a worker; `used` is the earlier usage, for budgets."""
        stage = cast("SynthStage", config.stages[name])
        self.config, self.stage = config, stage
        self.directory = Path(config.run_dir) / name
        self.segments = segments(build_steps(stage))
        self.resources = Resources(config, stage, Meter(stage.budget, used))
        self._inputs: dict[Path | None, Chunks] = {}
        self._failed_in_a_row = 0

    def inputs(self, folder: Path | None) -> Chunks:
        """Open the chunks in a folder, or the first segment's inputs."""
        if folder not in self._inputs:
            self._inputs[folder] = Parts(folder) if folder is not None else self._first()
        return self._inputs[folder]

    def work(self, segment: Segment, number: int, chunks: Chunks, parts: Parts) -> Record:
        """Make chunk `number` of a segment's output.

        Raises:
            SynthesisStopped: at a budget, or after consecutive teacher failures.
        """
        before = Counter(self.resources.meter.usage)
        try:
            made, record = self._made(segment, chunks.read(number))
        except (BudgetReached, SynthesisStopped, OSError) as e:
            self._note(Counter(self.resources.meter.usage) - before)
            raise SynthesisStopped(str(e)) from e
        record.usage = Counter(self.resources.meter.usage) - before
        try:
            parts.write(number, made, record)
        except OSError as e:
            raise SynthesisStopped(f"{parts.folder}: {e}") from e
        return record

    def work_whole(self, segment: Segment, chunks: Chunks, parts: Parts) -> None:
        """Make all of a segment's output, in chunks of the stage's size.

        Raises:
            SynthesisStopped: as `work` does.
        """
        before, record, number = Counter(self.resources.meter.usage), Record(), 0
        made = self._apply(segment, walk(chunks), record)
        try:
            while some := list(islice(made, self.stage.chunk)):
                parts.write(number, some, Record())
                number += 1
            # The counts are complete when the last example has come out.
            record.usage = Counter(self.resources.meter.usage) - before
            parts.write(number, [], record)
        except (BudgetReached, TeacherFailed, OSError) as e:
            self._note(Counter(self.resources.meter.usage) - before)
            raise SynthesisStopped(str(e)) from e

    def close(self) -> None:
        """Free the engines."""
        self.resources.close()

    def _first(self) -> Chunks:
        if self.stage.inputs == "passages":
            return Passages(self.resources.collection, self.stage.chunk)
        return Queries(Store(Path(self.config.run_dir) / "data"), self.stage.chunk)

    def _made(self, segment: Segment, examples: Sequence[RankingExample]) -> tuple[list[RankingExample], Record]:
        """Process a chunk; if its teacher fails, each example is tried separately."""
        record = Record()
        try:
            return list(self._apply(segment, examples, record)), record
        except TeacherFailed:
            made, record = list[RankingExample](), Record()
        for example in examples:
            alone = Record()
            try:
                made += self._apply(segment, [example], alone)
                self._failed_in_a_row = 0
            except TeacherFailed as e:
                alone = Record(failures=Counter({str(e)[:200]: 1}))
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= MAX_CONSECUTIVE_FAILURES:
                    raise SynthesisStopped(
                        f"{MAX_CONSECUTIVE_FAILURES} examples in a row were not answered, the last time: {e}"
                    ) from None
            record.add(alone)
        return made, record

    def _apply(self, segment: Segment, examples: Iterable[RankingExample], record: Record) -> Iterator[RankingExample]:
        stream = iter(examples)
        for name, step in segment.steps.items():
            context = StepContext(name, self.config, self.stage, self.resources)
            record.counts[name] = context.counts
            context.counts.update({"in": 0, "out": 0})
            stream = _counted(iter(step(_counted(stream, context.counts, "in"), context)), context.counts, "out")
        return stream

    def _note(self, usage: Counter[str]) -> None:
        """Append usage of unfinished chunks to a file shared by all processes; on a full disk it is lost."""
        if usage:
            with contextlib.suppress(OSError), (self.directory / UNFINISHED).open("a", encoding="utf-8") as file:
                file.write(json.dumps(usage) + "\n")


def _counted(stream: Iterable[RankingExample], counts: Counter[str], name: str) -> Iterator[RankingExample]:
    for example in stream:
        counts[name] += 1
        yield example
