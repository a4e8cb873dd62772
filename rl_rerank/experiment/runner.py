"""`rl-rerank run`: the stages of an experiment in order, each in a process of its own. Free of torch."""

import contextlib
import dataclasses
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from rl_rerank.config import STRATEGIES, Config, HubConfig, LauncherConfig
from rl_rerank.data import prepare
from rl_rerank.experiment import run_state, templates
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import subprocesses
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
        0, or the exit status of the stage that failed.
    """
    experiment = Experiment.of(config)
    run_state.refuse_changes(experiment, experiment.stages)
    pending = [name for name in experiment.stages if run_state.done(experiment, name) is None]
    experiment.check_installed(pending)
    templates.check(experiment, pending)
    with _locked(Path(config.run_dir)) as lock:
        prepared(experiment)
        for name in experiment.stages:
            if (entry := run_state.done(experiment, name)) is not None:
                logger.info("%s: done (%.0f s), skipped", name, entry["seconds"])
                continue
            logger.info("%s: starts", name)
            if status := _stage(experiment, name, overrides, lock):
                return status
    return 0


def prepared(experiment: Experiment) -> None:
    """Write config.json and the data store, unless the run was made with another configuration."""
    config = experiment.config
    run_state.refuse_changes(experiment, experiment.stages)
    whole = dataclasses.replace(config, stage=None, dry_run=False, push=None, hub=HubConfig())
    write_json(Path(config.run_dir) / "config.json", dataclasses.asdict(whole))
    prepare(config.data, Path(config.run_dir) / "data")


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


def _stage(experiment: Experiment, name: str, overrides: Sequence[str], lock: IO[str]) -> int:
    # Noted here, so that a configuration file which is edited meanwhile cannot slip in: the stage's own process
    # composes again and refuses what differs.
    config = experiment.config
    run_state.begin(experiment, name)
    # The stage keeps the lock too: a run whose runner was killed stays locked until its stage is gone.
    status = subprocesses.run(command(config, name, overrides), keep_open=[lock.fileno()])
    if status == 0 and run_state.done(experiment, name) is None:
        logger.error("stage %r ended without finishing; its log is %s", name, Path(config.run_dir) / name / LOG)
        return 1
    return explain(config, name, status)


@contextlib.contextmanager
def _locked(run_dir: Path, patience: float = 3.0) -> Iterator[IO[str]]:
    """Hold the run's lock; `patience` is for the stage of a killed runner, which takes a moment to end."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+", encoding="utf-8") as lock:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.seek(0)
                    raise ValueError(
                        f"another process ({lock.read().strip() or 'unknown'}) is working in {run_dir}; wait for it, "
                        "or give another run_dir="
                    ) from None
                time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock
