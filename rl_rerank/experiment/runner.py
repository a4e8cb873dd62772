"""`rl-rerank run`: the stages of an experiment in order, each in a process of its own. Free of torch."""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from rl_rerank.config import STRATEGIES, Config, HubConfig, LauncherConfig
from rl_rerank.data import Store, prepare
from rl_rerank.experiment import data_page, outputs, run_state
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.experiment.run_lock import locked
from rl_rerank.io import requeue, subprocesses
from rl_rerank.io.files import conf_dir, write_json

logger = logging.getLogger(__name__)

LOG = "log.txt"
"""In each stage's folder: its log records, and the traceback where it failed."""


def run(config: Config, overrides: Sequence[str]) -> int:
    """Run every stage that is not done yet.

    Args:
        config: the experiment, as composed from `overrides`.
        overrides: what each stage's own command line composes the same configuration from.

    Returns:
        0, the exit status of the stage that failed, or `requeue.STATUS` for a run that a scheduler has stopped.
    """
    experiment = Experiment.of(config)
    run_state.refuse_changes(experiment, experiment.stages)
    experiment.check_installed([n for n in experiment.stages if run_state.done(experiment, n) is None])
    try:
        with _stoppable(), locked(Path(config.run_dir)) as lock:
            return _stages(experiment, overrides, lock)
    except subprocesses.Stopped:
        return requeued()


def _stages(experiment: Experiment, overrides: Sequence[str], lock: IO[str]) -> int:
    store = prepared(experiment)
    for line in data_page.head(store):
        logger.info("data: %s", line)
    if status := _preflight(experiment, overrides, lock):
        return status
    for name in experiment.stages:
        if (entry := run_state.done(experiment, name)) is not None:
            logger.info("%s: done (%.0f s), skipped", name, entry["seconds"])
            continue
        logger.info("%s: starts", name)
        if status := _stage(experiment, name, overrides, lock):
            return status
    return 0


def prepared(experiment: Experiment) -> Store:
    """Write config.json and the data store, which is returned, unless the run was made with another configuration."""
    config = experiment.config
    run_state.refuse_changes(experiment, experiment.stages)
    whole = dataclasses.replace(config, stage=None, dry_run=False, push=None, hub=HubConfig())
    write_json(Path(config.run_dir) / "config.json", dataclasses.asdict(whole))
    data = Path(config.run_dir) / "data"
    store = prepare(config.data, data)
    outputs.note_data(data)
    return store


def results(config: Config) -> list[str]:
    """What to show at the end: the table, and where the report and the exported model are."""
    lines: list[str] = []
    for name, stage in config.stages.items():
        lines += stage.results(Path(config.run_dir) / name)
    return lines


def command(config: Config, name: str, overrides: Sequence[str]) -> list[str]:
    """The command line that runs one stage."""
    stage = config.stages[name]
    launch = [sys.executable]
    if config.launcher.kind == "accelerate" and stage.is_launched:
        # accelerate puts the working directory on DeepSpeed's PYTHONPATH, where its folders would shadow packages.
        python = ["--no_python", "env", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", sys.executable]
        launch += ["-m", "accelerate.commands.launch", *_accelerate(config.launcher), *python]
    return [*launch, "-m", "rl_rerank", stage.kind, *overrides, f"stage={name}"]


def explain(config: Config, name: str, status: int) -> int:
    """Log why stage `name` ended, where it failed, and return its status as a shell would."""
    if status:
        how = f"exit status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
        log = Path(config.run_dir) / name / LOG
        logger.error(
            "stage %r failed with %s; its log is %s. The same command starts again from there.", name, how, log
        )
    return status if status >= 0 else 128 - status


def requeued() -> int:
    """Log that the run was stopped, and return the status that says so."""
    logger.warning("stopped on request; the same command goes on from here (exit status %d)", requeue.STATUS)
    return requeue.STATUS


def conduct(config: Config, name: str, overrides: Sequence[str], keep_open: Sequence[int] = ()) -> int:
    """Run the command of stage `name` to its end.

    A training stage is asked to stop where a scheduler signals this process: it ends by itself, with a checkpoint.

    Returns:
        Its exit status.

    Raises:
        subprocesses.Stopped: if it ended on request.
    """
    folder = Path(config.run_dir) / name
    asked: list[int] = []

    def ask(signum: int) -> None:
        asked.append(signum)
        logger.warning("%s: %s; waits for the end of its step", name, signal.Signals(signum).name)
        requeue.request(folder, signum)

    stops = config.stages[name].is_launched
    status = subprocesses.run(command(config, name, overrides), keep_open=keep_open, on_stop=ask if stops else None)
    # Launchers have an exit status of their own.
    is_stopped = status == requeue.STATUS or (status != 0 and requeue.is_stopped(folder))
    if is_stopped or (asked and status == 0):
        raise subprocesses.Stopped
    return status


def _accelerate(launcher: LauncherConfig) -> list[str]:
    """Arguments of `accelerate launch`; its configuration files name the strategy alone."""
    file = f"{conf_dir() / 'accelerate' / launcher.strategy}.yaml"
    arguments = {
        "config_file": file if launcher.strategy in STRATEGIES else launcher.strategy,
        "num_processes": launcher.num_processes,
        "num_machines": launcher.num_machines,
        "machine_rank": launcher.machine_rank,
        "main_process_ip": launcher.main_process_ip,
        "main_process_port": launcher.main_process_port or 0,  # 0: a free one, so that two runs do not meet
    }
    given = [(f"--{key}", str(value)) for key, value in arguments.items() if value is not None]
    return [*(text for pair in given for text in pair), *launcher.args]


def _preflight(experiment: Experiment, overrides: Sequence[str], lock: IO[str]) -> int:
    """Make the dry run that a user can make, so that hours of work do not end in what was known before.

    It has a process of its own, because it imports torch, which would keep memory on a GPU until the run's end.
    """
    waiting = [stage for name, stage in experiment.stages.items() if run_state.done(experiment, name) is None]
    if not any(stage.settings.is_launched or stage.engine is not None for stage in waiting):
        return 0
    logger.info("checking prompts and trainer arguments")
    arguments = [sys.executable, "-m", "rl_rerank", "run", *overrides, "dry_run=true"]
    return subprocesses.run(arguments, keep_open=[lock.fileno()], quiet=True)


def _stage(experiment: Experiment, name: str, overrides: Sequence[str], lock: IO[str]) -> int:
    # Noted here, so that a configuration file which is edited meanwhile cannot slip in: the stage's own process
    # composes again and refuses what differs.
    config = experiment.config
    outputs.refuse_changed(experiment, name)
    run_state.begin(experiment, name)
    requeue.clear(Path(config.run_dir) / name)
    # The stage keeps the lock too: a run whose runner was killed stays locked until its stage is gone.
    status = conduct(config, name, overrides, [lock.fileno()])
    if status == 0 and run_state.done(experiment, name) is None:
        logger.error("stage %r ended without finishing; its log is %s", name, Path(config.run_dir) / name / LOG)
        return 1
    if status == 0:
        outputs.note(experiment, name)
    return explain(config, name, status)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Raise `Stopped` for a scheduler's signals between the processes that are run here, which have other handlers."""

    def stop(signum: int, frame: object) -> None:
        raise subprocesses.Stopped

    before = {signum: signal.signal(signum, stop) for signum in requeue.SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
