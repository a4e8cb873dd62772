"""Processing the chunks of a synthesis on a Ray cluster with Ray Data.

RAY_ADDRESS names the cluster; without it, a cluster is started that is reachable from this machine only. All machines
must see the run folder, the data and the models under the same paths.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data

from rl_rerank.config import Config
from rl_rerank.synthesis.parts import Parts, Record
from rl_rerank.synthesis.worker import SynthesisStopped, Worker

BLOCKS = 16
"""Blocks into which each worker's share of the chunks is divided."""


def spread(
    config: Config,
    name: str,
    used: Mapping[str, float],
    segment: int,
    todo: Sequence[int],
    previous: Path | None,
    target: Path,
    workers: int,
) -> Iterator[Record]:
    """Yield the records of the chunks `todo` as workers finish them.

    Args:
        used: earlier usage, for budgets; a worker knows only this and its own usage.
        segment: its number. previous, target: the folders of the input and output chunks.

    Raises:
        SynthesisStopped: at the first chunk that a worker could not finish.
    """
    connect(workers)
    chunks = ray.data.from_items([{"number": n} for n in todo], override_num_blocks=min(len(todo), workers * BLOCKS))
    made = chunks.map(
        _Worker,  # pyright: ignore[reportArgumentType] (made once in a worker, which Ray's types do not say)
        fn_constructor_args=(str(Path.cwd()), config, name, dict(used)),
        fn_args=(segment, None if previous is None else str(previous), str(target)),
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    for row in made.iter_rows():
        if row["stopped"]:
            raise SynthesisStopped(row["stopped"])
        yield Record.from_json(json.loads(row["record"]))


def connect(workers: int) -> None:
    """Connect to the cluster, or start one with at least as many processors as workers."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    given: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if "RAY_ADDRESS" not in os.environ:
        given |= {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
        given["_node_ip_address"] = "127.0.0.1"
    ray.init(**given)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the stage has one


class _Worker:
    """One worker, which reads and writes chunks itself; rows hold their numbers and records."""

    def __init__(self, folder: str, config: Config, name: str, used: Mapping[str, float]) -> None:
        os.chdir(folder)  # which paths of the configuration are relative to
        self.worker = Worker(config, name, used)

    def __call__(self, row: dict[str, Any], segment: int, previous: str | None, target: str) -> dict[str, Any]:
        chunks = self.worker.inputs(None if previous is None else Path(previous))
        try:
            record = self.worker.work(self.worker.segments[segment], int(row["number"]), chunks, Parts(Path(target)))
        except SynthesisStopped as e:
            return {"record": "", "stopped": str(e)}
        return {"record": json.dumps(record.to_json()), "stopped": ""}
