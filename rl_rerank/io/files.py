"""Files that appear whole or not at all, and where the configuration is: in a checkout or in an installed wheel."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PACKAGE = Path(__file__).resolve().parents[1]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Errors of writing alone: a disk or a quota that is full, a file that may not grow, a disk that is read-only."""
DISK_ERRORS = FULL | {errno.EACCES, errno.EIO}


class WriteError(OSError):
    """Raised where a file or folder cannot be written; as text, a sentence with the place, the reason and the room."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(number, os.strerror(number), str(path))

    def __str__(self) -> str:
        return (
            f"{self.filename} cannot be written: {self.strerror}; {free(Path(self.filename))} are free there. The same "
            "command goes on when it can be"
        )

    def __reduce__(self) -> tuple[type["WriteError"], tuple[Path, int | None]]:
        return WriteError, (Path(self.filename), self.errno)  # as it reaches another process


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file or folder that is being written in what the disk, or a library that writes on it, raises.

    Raises:
        WriteError: instead of an error of the disk.
    """
    try:
        yield
    except Exception as e:
        if isinstance(e, WriteError) or (number := _number(e, path)) is None:
            raise
        raise WriteError(path, number) from e


def free(path: Path) -> str:
    """The free space where a path is, or would be."""
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return f"{shutil.disk_usage(there).free / 2**20:.0f} MiB"


def _number(error: Exception, path: Path) -> int | None:
    """The number of an error of the disk that has `path`; None of any other error."""
    if not isinstance(error, OSError):
        # Libraries in other languages, as that of safetensors, pass on the text alone.
        return next((number for number in FULL if os.strerror(number) in str(error)), None)
    named = error.filename if isinstance(error.filename, str) else None
    is_elsewhere = named is not None and not Path(named).is_relative_to(path.parent)
    return error.errno if error.errno in DISK_ERRORS and not is_elsewhere else None


def conf_dir() -> Path:
    """The folder of hydra configuration: `conf/` of the checkout, or its copy inside the wheel."""
    for candidate in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"no conf/config.yaml beside {PACKAGE}: the installation is incomplete")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at `path` whole or not at all: a temporary one beside it, flushed, then renamed."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that appears at `folder` whole or not at all, instead of whatever is there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(folder):
        partial.mkdir(parents=True)
        try:
            yield partial
            for path in partial.rglob("*"):
                # Libraries write some for us alone.
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
                flush(path)
            flush(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    flush(folder.parent)


def flush(path: Path) -> None:
    """Flush a file to the disk, or a folder's list of names, so that a rename in it survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """One JSON value a line, whole or not at all; rows are made as they are written."""
    with replacing(path) as file:
        file.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)


def read_json(path: Path) -> Any:
    """One JSON value; a file that is no JSON is an error that names it.

    Raises:
        ValueError: if it is not.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is not JSON ({e}); it was changed after it was written") from None


def read_jsonl(path: Path) -> list[Any]:
    """One JSON value a line; a line that is no JSON is an error that names the file and the line."""
    rows: list[Any] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as e:
                    raise ValueError(f"{path}:{number}: not JSON ({e.msg}): {line[:80]!r}") from None
    return rows
