"""A disk of a chosen size: a tmpfs that one process and its children see, which needs Linux and the right to mount."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 16384, 1 << 18
LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def own_mounts() -> None:
    """Give this process mounts of its own; call it before any thread is started."""
    user, group = os.getuid(), os.getgid()
    _checked(LIBC.unshare(CLONE_NEWNS if user == 0 else CLONE_NEWNS | CLONE_NEWUSER))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _checked(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


@contextmanager
def disk(folder: Path, pages: int) -> Iterator[Path]:
    """Mount a disk of as many pages on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _checked(LIBC.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={pages * PAGE}".encode()))
    try:
        yield folder
    finally:
        _checked(LIBC.umount2(bytes(folder), 2))


def resize(folder: Path, pages: int) -> None:
    """Give the disk another size."""
    _checked(LIBC.mount(b"tmpfs", bytes(folder), b"tmpfs", MS_REMOUNT, f"size={pages * PAGE}".encode()))


def make_read_only(folder: Path) -> None:
    """Take writing away."""
    _checked(LIBC.mount(b"tmpfs", bytes(folder), b"tmpfs", MS_REMOUNT | MS_RDONLY, None))


def pages_left(folder: Path) -> int:
    return shutil.disk_usage(folder).free // PAGE
