"""SHA-256 of files and values, in hexadecimal digits."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def of_file(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_json(value: Any) -> str:
    """Of a value as JSON with sorted keys; what JSON does not know counts as its `str`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def of_lines(values: Iterable[Any]) -> str:
    """Of values as JSON, one a line."""
    found = hashlib.sha256()
    for value in values:
        found.update(json.dumps(value, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return found.hexdigest()


def of_target(target: str | None) -> dict[str, str]:
    """`file_sha256` of a plugin's own file, whose contents count and not its name alone; empty for any other target."""
    if target is None or ".py:" not in target:
        return {}
    return {"file_sha256": of_file(Path(target.rsplit(":", 1)[0]))}
