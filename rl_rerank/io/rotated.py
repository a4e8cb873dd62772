"""JSON-lines files that grow by a few rows at a time and stay small: what is full gets a number.

A file `rows.jsonl` of LIMIT bytes becomes `rows.40.jsonl` when the rows of step 40 come. The first and the newest ones
stay.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rl_rerank.io.files import read_jsonl, write_bytes, write_jsonl

LIMIT = 32 * 2**20
"""Bytes above which a file is full."""
NEWEST = 3
"""Full files that stay, beside the first."""


def read(path: Path) -> list[Any]:
    """Read the rows of a file and of the numbered ones before it."""
    return [row for one in [*_full(path), path] for row in read_jsonl(one)]


def append(path: Path, rows: Sequence[Any], step: int) -> None:
    """Append the rows of a step; if the file is full, to a new one.

    Args:
        step: at least 1, and larger than that of all rows before.
    """
    if path.exists() and path.stat().st_size >= LIMIT:
        path.rename(path.with_name(f"{path.stem}.{step}{path.suffix}"))
        for old in _full(path)[1:-NEWEST]:
            old.unlink()
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def cut(path: Path, keep: Callable[[Any], bool]) -> None:
    """Drop the last rows, which are not to be kept, and a last line truncated by a kill, which may end within a
    character.

    Appending then goes on as if they had not been there: if all rows of a file are dropped, the one before it is taken
    up again.
    """
    if not path.exists():
        if not (full := _full(path)):
            return
        full[-1].replace(path)  # a kill left no file behind the full one
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        write_bytes(path, content[: content.rfind(b"\n") + 1])
    while not (kept := _kept(path, keep)) and (full := _full(path)):
        full[-1].replace(path)
    write_jsonl(path, kept)


def _kept(path: Path, keep: Callable[[Any], bool]) -> list[Any]:
    return [row for row in read_jsonl(path) if keep(row)]


def _full(path: Path) -> list[Path]:
    """The numbered files, in the order in which they were filled."""
    found = path.parent.glob(f"{path.stem}.*{path.suffix}")
    return sorted((one for one in found if _number(one)), key=_number)


def _number(path: Path) -> int:
    """The number of a numbered file; 0 of others."""
    number = path.stem.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0
