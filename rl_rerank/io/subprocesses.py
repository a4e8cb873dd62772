"""A child process that is run to its end: interrupts are passed on, and it does not outlive whoever waits for it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from rl_rerank.io import requeue

GRACE_SECONDS = 45.0
"""How long an interrupted process may take to close its files. torchrun gives its workers 30 of these."""

POLL_SECONDS = 1.0
"""How soon an interrupt is seen."""

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


class Stopped(KeyboardInterrupt):
    """Raised for a run that a scheduler has stopped, and that the same command continues."""


def run(
    arguments: Sequence[str],
    *,
    keep_open: Sequence[int] = (),
    quiet: bool = False,
    on_stop: Callable[[int], None] | None = None,
) -> int:
    """Run a command to its end; an interrupt is passed on, and the command may close its files first.

    Args:
        keep_open: file descriptors that the command inherits.
        quiet: drop its standard output.
        on_stop: receives the first of `requeue.SIGNALS`, after which the command ends by itself; a second signal is
            passed on as an interrupt is. None: all of these signals are.

    Returns:
        Its exit status; negative for the signal that ended it.

    Raises:
        KeyboardInterrupt: after an interrupt, when the command has ended.
        Stopped: the same for one of `requeue.SIGNALS`.
    """
    # Handlers that note instead of raise: Python loses an exception that is raised while it forks.
    noted: list[int] = []
    handled = (signal.SIGINT, *requeue.SIGNALS)
    before = {s: signal.signal(s, lambda signum, _: noted.append(signum)) for s in handled}
    try:
        # PYTHONSAFEPATH: a folder of the working directory must not shadow a package that the command imports.
        process = subprocess.Popen(
            arguments,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            pass_fds=keep_open,
            stdout=subprocess.DEVNULL if quiet else None,
            preexec_fn=_begin,
        )
        _wait(process, noted)
        if noted and noted[0] in requeue.SIGNALS and on_stop is not None:
            on_stop(noted.pop(0))
            _wait(process, noted)
        if noted:  # Also where the command has ended: a terminal's interrupt reaches both.
            # SIGUSR1 would end launchers and engines, which know nothing of it, before the stage could close its files.
            _end(process, signal.SIGINT if noted[0] == signal.SIGINT else signal.SIGTERM)
            raise KeyboardInterrupt if noted[0] == signal.SIGINT else Stopped
        return process.returncode
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def end_with_parent() -> None:
    """On Linux, have the kernel end this process when its parent is killed, so that nothing works on unseen."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _begin() -> None:
    """In the new process: where all processes of a job receive SIGUSR1, only those that handle it heed it."""
    end_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _wait(process: subprocess.Popen[bytes], noted: Sequence[int]) -> None:
    while not noted and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes], signum: int) -> None:
    """A terminal's Ctrl-C reached the process as well; any other interrupt is passed on. Give it time, then insist."""
    if signum != signal.SIGINT or not os.isatty(0):
        process.send_signal(signum)
    for insist in (process.terminate, process.kill):
        try:
            process.wait(GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            insist()
    process.wait()
