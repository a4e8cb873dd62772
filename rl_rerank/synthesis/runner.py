"""Runs all examples through a recipe: segment after segment, chunk by chunk, in one or more processes.

A chunk's output depends only on its own examples and the seed, and outputs are merged in the order of the chunks. The
result is therefore independent of the number of processes and of kills.
"""

import json
import logging
import multiprocessing
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tqdm import tqdm

from rl_rerank.config import Config
from rl_rerank.io import subprocesses
from rl_rerank.io.files import read_jsonl, replacing, write_json
from rl_rerank.synthesis.metered import BudgetReached, Meter
from rl_rerank.synthesis.parts import Parts, Record
from rl_rerank.synthesis.worker import UNFINISHED, Segment, SynthesisStopped, Worker

logger = logging.getLogger(__name__)

AHEAD = 2
"""Chunks queued per process, including the current one."""
Folders: TypeAlias = tuple[Path | None, Path]
"""Input folder of chunks (None: the first inputs) and output folder."""


@dataclass
class Outcome:
    """The output of a run so far."""

    files: list[Path] = field(default_factory=list)
    """Files of the examples, in order."""
    record: Record = field(default_factory=Record)
    stopped: str = ""
    """Reason for stopping early; empty if it did not."""


def run(config: Config, name: str) -> Outcome:
    """Run the rest of the recipe of stage `name`.

    After a stop, the remaining steps run over the finished examples, in a folder of their own, so that the outcome is
    a smaller output of the whole recipe.
    """
    folder = Path(config.run_dir) / name
    shutil.rmtree(folder / "partial", ignore_errors=True)
    worker = Worker(config, name, used(folder))
    outcome, previous = Outcome(), None
    outcome.record.usage = _unfinished(folder)
    try:
        for segment in worker.segments:
            target = folder / ("partial" if outcome.stopped else "parts") / f"{segment.number:02d}"
            try:
                _segment(config, name, worker, segment, previous, target)
            except SynthesisStopped as e:
                outcome.stopped = outcome.stopped or str(e)
                logger.warning("%s: stopped: %s", name, e)
            outcome.record.add(Parts(target).record())
            previous = target
    finally:
        worker.close()
    assert previous is not None
    last = Parts(previous)
    outcome.files = [last.path(number) for number in last.numbers()]
    return outcome


def used(folder: Path) -> Counter[str]:
    """Read the usage of a stage's engines in earlier starts."""
    total = Record(usage=_unfinished(folder))
    for parts in sorted((folder / "parts").glob("*")):
        total.add(Parts(parts).record())
    return total.usage


def _unfinished(folder: Path) -> Counter[str]:
    total: Counter[str] = Counter()
    for usage in read_jsonl(folder / UNFINISHED) if (folder / UNFINISHED).is_file() else ():
        total.update(usage)
    return total


def _segment(config: Config, name: str, worker: Worker, segment: Segment, previous: Path | None, target: Path) -> None:
    chunks, parts = worker.inputs(previous), Parts(target)
    if segment.is_whole:
        if not (target / "whole.json").is_file():
            for left in target.iterdir():
                left.unlink()
            worker.work_whole(segment, chunks, parts)
            write_json(target / "whole.json", {})
        return
    there = set(parts.numbers())
    todo = [number for number in chunks.numbers() if number not in there]
    with tqdm(total=len(there) + len(todo), initial=len(there), desc=_label(name, segment), unit="chunk") as bar:
        shards = min(worker.stage.shards, len(todo))
        total: Counter[str] = Counter(worker.resources.meter.before)
        records: Iterable[Record]
        if todo and worker.stage.executor == "ray":
            records = _spread_on_ray(config, name, worker, segment.number, todo, (previous, target), shards)
        elif shards <= 1:
            records = (worker.work(segment, number, chunks, parts) for number in todo)
        else:
            records = _spread(config, name, worker, segment.number, todo, (previous, target), shards)
        for record in records:
            total.update(record.usage)
            bar.set_postfix({k: f"{total[k]:.4g}" for k in ("cost", "completion_tokens") if total[k]})
            bar.update()


def _label(name: str, segment: Segment) -> str:
    steps = list(segment.steps)
    return f"{name}: {steps[0]}..{steps[-1]}" if len(steps) > 1 else f"{name}: {''.join(steps) or 'reading'}"


def _spread(
    config: Config, name: str, worker: Worker, segment: int, todo: Sequence[int], folders: Folders, shards: int
) -> Iterator[Record]:
    """Yield records of chunks as processes finish them. No chunk starts after the first stop or at a budget.

    A process knows its own usage and the usage before its start.
    """
    meter, left = worker.resources.meter, deque(todo)
    arguments = (config, name, dict(meter.before))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(shards, context, initializer=_start, initargs=arguments) as pool:
        waiting = set[Future[Record]]()
        stop: SynthesisStopped | None = None
        while waiting or (left and stop is None):
            while left and stop is None and len(waiting) < shards * AHEAD:
                waiting.add(pool.submit(_work, segment, left.popleft(), *folders))
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    record = future.result()
                except SynthesisStopped as e:
                    stop = stop or e
                    continue
                meter.before = Counter(meter.before) + record.usage
                yield record
            if left and stop is None:
                stop = _reached(meter)
        if stop is not None:
            raise stop


def _spread_on_ray(
    config: Config, name: str, worker: Worker, segment: int, todo: Sequence[int], folders: Folders, shards: int
) -> Iterator[Record]:
    """Do the same on a cluster, where chunks in progress may be lost when a budget is reached."""
    from rl_rerank.synthesis import on_ray

    meter, left = worker.resources.meter, len(todo)
    for record in on_ray.spread(config, name, meter.before, segment, todo, *folders, shards):
        meter.before = Counter(meter.before) + record.usage
        yield record
        left -= 1
        if left and (stop := _reached(meter)) is not None:
            raise stop


def _reached(meter: Meter) -> SynthesisStopped | None:
    try:
        meter.check()
    except BudgetReached as e:
        return SynthesisStopped(str(e))
    return None


_workers: list[Worker] = []
"""The worker of this child process."""


def _start(config: Config, name: str, used: Mapping[str, float]) -> None:
    subprocesses.end_with_parent()
    _workers.append(Worker(config, name, used))


def _work(segment: int, number: int, previous: Path | None, target: Path) -> Record:
    [worker] = _workers
    return worker.work(worker.segments[segment], number, worker.inputs(previous), Parts(target))


def clean(config: Config, name: str) -> None:
    """Remove the files that only a resumed run needs."""
    folder = Path(config.run_dir) / name
    for left in ("parts", "partial"):
        shutil.rmtree(folder / left, ignore_errors=True)
    (folder / UNFINISHED).unlink(missing_ok=True)


def merge(files: Sequence[Path], target: Path) -> None:
    """Merge chunks into one file atomically."""
    with replacing(target) as whole:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, whole)


def qids(files: Sequence[Path]) -> Iterator[str]:
    """Yield the qids of all examples in the files."""
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["qid"]
