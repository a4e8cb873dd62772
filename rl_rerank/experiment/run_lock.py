"""One run at a time in a run folder, on whatever machine.

The lock is the file system's, so it ends with the processes that have it, and what a killed run leaves stops nobody.
Some network file systems lock within a machine only. There the owner's sign of life counts: the time of modification of
the lock file, which it renews.
"""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds for an owner that is about to end."""
ORPHAN = 60.0
"""Seconds for the stage of a killed runner, which may save a checkpoint first; torchrun gives its workers 30."""
RENEWAL = 10.0
"""Seconds between two signs of life."""
SILENCE = 120.0
"""Seconds without one after which an owner on another machine counts as dead; NFS clients may see it a minute late."""
INHERITED = "RL_RERANK_LOCK"
"""Environment variable: the number of the lock's file in the processes that inherit it."""


@contextlib.contextmanager
def shared(run_dir: Path) -> Iterator[None]:
    """Hold the lock, which the run that started this process has already where there is one.

    Raises:
        ValueError: with the process and the host of another run.
    """
    # A launcher passes no files on. It works for a run that has the lock.
    if "LOCAL_RANK" in os.environ or _is_inherited(run_dir):
        yield
        return
    with locked(run_dir):
        yield


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[IO[str]]:
    """Hold the lock of a run folder; processes that inherit the file hold it too.

    Raises:
        ValueError: with the process and the host that have it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+", encoding="utf-8") as lock:
        _take(lock, run_dir)
        _refuse_another_machine(lock, run_dir)
        _write(lock, f"{os.getpid()} on {socket.gethostname()}")
        ended = threading.Event()
        renewing = threading.Thread(target=_renew, args=(lock.fileno(), ended), daemon=True)
        renewing.start()
        os.environ[INHERITED] = str(lock.fileno())
        try:
            yield lock
        finally:
            os.environ.pop(INHERITED, None)
            ended.set()
            renewing.join()
            _write(lock, "")


def _is_inherited(run_dir: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(int(os.environ.get(INHERITED, ""))), (run_dir / ".lock").stat())
    except (ValueError, OSError):  # the number is of a run that has ended
        return False


def _take(lock: IO[str], run_dir: Path) -> None:
    started, patience = time.monotonic(), PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if patience < ORPHAN and _is_dead(_owner(lock)):
                logger.info("%s: the stage of a killed run ends; waits up to %.0f s for it", run_dir, ORPHAN)
                patience = ORPHAN
            if time.monotonic() - started > patience:
                raise ValueError(_refusal(_owner(lock), run_dir)) from None
            time.sleep(0.1)


def _refuse_another_machine(lock: IO[str], run_dir: Path) -> None:
    """Watch an owner on another machine until it shows that it is alive, or has been silent for long."""
    owner = _owner(lock)
    if owner.rpartition(" on ")[2] in ("", owner, socket.gethostname()):
        return
    logger.info("%s was locked by process %s; waits up to %.0f s for a sign of life", run_dir, owner, SILENCE)
    seen, deadline = os.fstat(lock.fileno()).st_mtime_ns, time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        if os.fstat(lock.fileno()).st_mtime_ns != seen:
            raise ValueError(_refusal(owner, run_dir))
        time.sleep(min(1.0, SILENCE / 10))
    logger.warning("process %s gave no sign of life for %.0f s; its lock of %s is taken over", owner, SILENCE, run_dir)


def _refusal(owner: str, run_dir: Path) -> str:
    return f"another process ({owner or 'unknown'}) is working in {run_dir}; wait for it, or give another run_dir="


def _owner(lock: IO[str]) -> str:
    """The process and the host that the file names, as `PID on HOST`."""
    lock.seek(0)
    return lock.read().strip()


def _is_dead(owner: str) -> bool:
    """Whether the process that took the lock is gone from this machine; those that it started may still have it."""
    pid, _, host = owner.partition(" on ")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False


def _write(lock: IO[str], text: str) -> None:
    lock.truncate(0)
    lock.write(text)
    lock.flush()


def _renew(handle: int, ended: threading.Event) -> None:
    while not ended.wait(RENEWAL):
        with contextlib.suppress(OSError):  # a network file system may be away for a while
            os.utime(handle)
