"""Locks that killed processes leave behind while torch builds or loads an extension of DeepSpeed.

torch marks a build by a file, which it creates and opens in one call and removes at the end. A process that is killed
in between leaves the file, and every later process would wait for it without end and without a word.
"""

import contextlib
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = "TORCH_EXTENSIONS_DIR"


def prepare(cache: Path) -> None:
    """Set the folder of extensions to one of this machine's, and remove locks there that no process holds.

    In a folder that machines share, a lock's holder could be on another one; and DeepSpeed builds for the processor
    that it finds.

    Args:
        cache: where the folder is made; an existing $TORCH_EXTENSIONS_DIR wins.
    """
    built_for = f"python{platform.python_version()}-torch{version('torch')}"
    os.environ.setdefault(FOLDER, str(cache / "extensions" / platform.node() / built_for))
    remove_stale(Path(os.environ[FOLDER]))


def remove_stale(folder: Path) -> list[Path]:
    """Remove locks of builds under `folder` that no living process of this machine has open.

    Only on Linux, which lists what processes have open. A lock that is younger than this process may be a moment from
    its own removal, so it is left alone.

    Returns:
        The removed files.
    """
    if sys.platform != "linux":
        return []
    started = time.time() - _age()
    old = {path: path.stat() for path in folder.glob("**/lock") if path.stat().st_mtime < started}
    held = {(found.st_dev, found.st_ino) for found in _open_files()} if old else set()
    stale = [path for path, found in old.items() if (found.st_dev, found.st_ino) not in held]
    for path in stale:
        path.unlink(missing_ok=True)  # another process of the same run may have been faster
        logger.warning("removed %s, which a process left that was killed while it built an extension", path)
    return stale


def _age() -> float:
    """Seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _open_files() -> Iterator[os.stat_result]:
    """What processes have open, as far as this user may see it."""
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            yield file.stat()
