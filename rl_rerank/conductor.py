"""`rl-rerank run`: the stages of an experiment in order, each in a process of its own. Free of torch."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from rl_rerank import ledger, plan
from rl_rerank.config import Config, EvaluateStage, ExportStage, ReportStage, TrainingStage
from rl_rerank.data import prepare
from rl_rerank.paths import write_json

logger = logging.getLogger(__name__)

LOG = "log.txt"
"""In each stage's folder: its log records, and the traceback where it failed."""

GRACE_SECONDS = 30.0
"""How long an interrupted stage may take to close its files."""

POLL_SECONDS = 1.0
"""How soon an interrupt is seen."""

PR_SET_PDEATHSIG = 1


def run(config: Config, overrides: Sequence[str]) -> int:
    """Run every stage that is not done yet.

    Args:
        config: the experiment, as composed from `overrides`.
        overrides: what each stage's own command line composes the same configuration from.

    Returns:
        0, or the exit status of the stage that failed.
    """
    plan.validate(config)
    ledger.refuse_changes(config, config.stages)
    plan.check_installed(config, [n for n in config.stages if ledger.done(config, n) is None])
    with _locked(Path(config.run_dir)) as lock:
        prepared(config)
        for name in config.stages:
            if (entry := ledger.done(config, name)) is not None:
                logger.info("%s: done (%.0f s), skipped", name, entry["seconds"])
                continue
            logger.info("%s: starts", name)
            if status := _stage(config, name, overrides, lock):
                return status
    return 0


def prepared(config: Config) -> None:
    """Write config.json and the data store, unless the run was made with another configuration."""
    ledger.refuse_changes(config, config.stages)
    whole = dataclasses.replace(config, stage=None, dry_run=False)
    write_json(Path(config.run_dir) / "config.json", dataclasses.asdict(whole))
    prepare(config.data, Path(config.run_dir) / "data")


def results(config: Config) -> list[str]:
    """What to show at the end: the table, and where the report and the exported model are."""
    lines: list[str] = []
    for name, stage in config.stages.items():
        folder = Path(config.run_dir) / name
        if isinstance(stage, EvaluateStage) and (folder / "table.md").is_file():
            lines.append((folder / "table.md").read_text(encoding="utf-8"))
        elif isinstance(stage, ReportStage):
            lines += [f"report: {page}" for page in sorted(folder.glob("*.html"))]
        elif isinstance(stage, ExportStage):
            lines += [f"exported model: {found.parent}" for found in sorted(folder.rglob("reranker.json"))]
    return lines


def command(config: Config, name: str, overrides: Sequence[str]) -> list[str]:
    """The command line that runs one stage."""
    stage = config.stages[name]
    launch = [sys.executable]
    if config.launcher.kind == "accelerate" and isinstance(stage, TrainingStage):
        launch = [sys.executable, "-m", "accelerate.commands.launch", *config.launcher.args]
    return [*launch, "-m", "rl_rerank", stage.kind, *overrides, f"stage={name}"]


def _stage(config: Config, name: str, overrides: Sequence[str], lock: IO[str]) -> int:
    # Noted here, so that a configuration file which is edited meanwhile cannot slip in: the stage's own process
    # composes again and refuses what differs.
    ledger.begin(config, name)
    status = _wait(command(config, name, overrides), lock)
    if status == 0 and ledger.done(config, name) is None:
        logger.error("stage %r ended without finishing; its log is %s", name, Path(config.run_dir) / name / LOG)
        return 1
    if status:
        how = f"exit status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
        logger.error(
            "stage %r failed with %s; its log is %s. The same command starts again from there.",
            name,
            how,
            Path(config.run_dir) / name / LOG,
        )
    return status if status >= 0 else 128 - status


def _wait(arguments: list[str], lock: IO[str]) -> int:
    """Run a process to its end; an interrupt is passed on, and the process may close its files first."""
    # Handlers that note instead of raise: Python loses an exception that is raised while it forks.
    noted: list[int] = []
    before = {s: signal.signal(s, lambda signum, _: noted.append(signum)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        # The child keeps the lock too: a run whose conductor was killed stays locked until its stage is gone.
        # PYTHONSAFEPATH: a folder of the working directory must not shadow a package that the stage imports.
        process = subprocess.Popen(
            arguments,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            pass_fds=[lock.fileno()],
            preexec_fn=_end_with_parent(),
        )
        while not noted and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
        if noted:  # Also where the stage has ended: a terminal's interrupt reaches both.
            _end(process, noted[0])
            raise KeyboardInterrupt
        return process.returncode
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _end(process: subprocess.Popen[bytes], signum: int) -> None:
    """A terminal's Ctrl-C reached the stage as well; any other interrupt is passed on. Give it time, then insist."""
    if signum != signal.SIGINT or not os.isatty(0):
        process.send_signal(signum)
    for insist in (process.terminate, process.kill):
        try:
            process.wait(GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            insist()
    process.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """On Linux, has the kernel end the stage when the conductor is killed, so that nothing writes unseen."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _locked(run_dir: Path, patience: float = 3.0) -> Iterator[IO[str]]:
    """Hold the run's lock; `patience` is for the stage of a killed conductor, which takes a moment to end."""
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
