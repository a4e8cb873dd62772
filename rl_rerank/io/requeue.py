"""A run that is stopped to be continued later: the signals, the request to a stage's processes, the exit status.

A scheduler signals the processes that it knows. Between these and those that train stands a launcher, which ends its
processes when it is signalled, and other machines may not be signalled at all. The request is therefore a file in the
stage's folder, which every process of a run sees.
"""

import signal
from pathlib import Path

from rl_rerank.io.files import write_text

STATUS = 75
"""Exit status of a command that goes on when it is started again: EX_TEMPFAIL of sysexits.h."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Of a scheduler that needs the machine: SIGTERM of most, SIGUSR1 as jobs under Slurm ask for it."""

_REQUEST, _STOPPED = "stop_requested", "stopped"


def request(folder: Path, signum: int) -> None:
    """Ask the processes of the stage in `folder` to save a checkpoint and to end."""
    write_text(folder / _REQUEST, f"{signal.Signals(signum).name}\n")


def is_requested(folder: Path) -> bool:
    """Whether the stage's processes are asked to end."""
    return (folder / _REQUEST).exists()


def record_stop(folder: Path) -> None:
    """Note that the stage has saved a checkpoint and ends, for whoever sees a launcher's exit status alone."""
    write_text(folder / _STOPPED, "")


def is_stopped(folder: Path) -> bool:
    """Whether the stage's last end was such a stop."""
    return (folder / _STOPPED).exists()


def clear(folder: Path) -> None:
    """Forget requests and stops of before."""
    for name in (_REQUEST, _STOPPED):
        (folder / name).unlink(missing_ok=True)
