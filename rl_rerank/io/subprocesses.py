"""A child process that is run to its end: interrupts are passed on, and it does not outlive whoever waits for it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

GRACE_SECONDS = 45.0
"""How long an interrupted process may take to close its files. torchrun gives its workers 30 of these."""

POLL_SECONDS = 1.0
"""How soon an interrupt is seen."""

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


def run(arguments: Sequence[str], *, keep_open: Sequence[int] = (), quiet: bool = False) -> int:
    """Run a command to its end; an interrupt is passed on, and the command may close its files first.

    Args:
        keep_open: file descriptors that the command inherits.
        quiet: drop its standard output.

    Returns:
        Its exit status; negative for the signal that ended it.

    Raises:
        KeyboardInterrupt: after an interrupt, when the command has ended.
    """
    # Handlers that note instead of raise: Python loses an exception that is raised while it forks.
    noted: list[int] = []
    before = {s: signal.signal(s, lambda signum, _: noted.append(signum)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        # PYTHONSAFEPATH: a folder of the working directory must not shadow a package that the command imports.
        process = subprocess.Popen(
            arguments,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            pass_fds=keep_open,
            stdout=subprocess.DEVNULL if quiet else None,
            preexec_fn=end_with_parent,
        )
        while not noted and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
        if noted:  # Also where the command has ended: a terminal's interrupt reaches both.
            _end(process, noted[0])
            raise KeyboardInterrupt
        return process.returncode
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def end_with_parent() -> None:
    """On Linux, have the kernel end this process when its parent is killed, so that nothing works on unseen."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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
