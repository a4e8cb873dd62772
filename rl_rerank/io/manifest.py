"""Folders with a manifest: the size and SHA-256 of every file, written when all of them are on the disk.

A folder with a manifest is complete, and what has changed in it since is found.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rl_rerank.io.files import flush, write_json

MANIFEST = "manifest.json"
THREADS = 4
"""Files that are read at the same time. SHA-256 takes about a second a GB and core."""


def write(folder: Path, about: Mapping[str, Any]) -> None:
    """Flush every file of a folder to the disk, read it back, and write the manifest as the last one.

    Args:
        about: further values of the manifest, beside `files`.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(_flushed, paths))
    files = {path.relative_to(folder).as_posix(): entry for path, entry in zip(paths, found, strict=True)}
    for parent in {path.parent for path in paths}:
        flush(parent)
    write_json(folder / MANIFEST, {**about, "files": files})
    flush(folder)


def read(folder: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        ValueError: naming the folder, if there is none or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found["files"], dict):
            raise TypeError
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the folder is incomplete, or of an earlier version") from None
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{path} is no manifest; it was changed after it was written") from None
    return found


def damage(folder: Path, *patterns: str) -> str | None:
    """Compare a folder's files with its manifest; returns the first difference, with the file and the reason.

    Args:
        patterns: of the names of files to compare; all if there are none. Files without an entry are not read.
    """
    try:
        files = read(folder)["files"]
    except ValueError as e:
        return str(e)
    names = [name for name in files if not patterns or any(fnmatch(name, pattern) for pattern in patterns)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: difference(folder / name, files[name]), names)
        return next((one for one in found if one is not None), None)


def difference(path: Path, entry: Mapping[str, Any]) -> str | None:
    """Compare a file with its entry, `bytes` and `sha256`; returns how it differs."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # Before the bytes are read, because it is known at once.
            if size != entry["bytes"]:
                return f"{path} has {size} bytes, and its record {entry['bytes']}"
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                return f"{path} has other bytes than those that were written: its SHA-256 is not the recorded one"
    except OSError as e:
        return f"{path} cannot be read: {e.strerror}"
    return None


def _flushed(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
