"""Tables of Hugging Face datasets, by id or from a local folder. They stay in files, which are mapped into memory.

No code of a dataset is ever run: the package `datasets` refuses scripts, and whose files are named is read without one.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rl_rerank.data.sources.reading import digest
from rl_rerank.requirements import load

Table: TypeAlias = Any
"""A `datasets.Dataset`."""

_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".arrow": "arrow"}
_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NEEDED_BY = "data.source=hf"


def state(path: str, revision: str) -> str:
    """A digest of local files, or the id with its commit.

    Raises:
        FileNotFoundError: if `path` is neither local nor an id.
        ValueError: for an id without a commit.
    """
    place = Path(path)
    if place.is_file():
        return digest([place])
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file() and not file.name.startswith("."))
        names = "\n".join(str(file.relative_to(place)) for file in files)
        return hashlib.sha256(f"{names}\n{digest(files)}".encode()).hexdigest()
    if not _ID.fullmatch(path):
        raise FileNotFoundError(f"{path!r} is no file or folder, and no id of a dataset such as owner/name")
    if not _COMMIT.fullmatch(revision):
        got = f"; got {revision!r}" if revision else ""
        raise ValueError(
            f"{path!r} is read from the hub at one commit, so that every stage and every later run reads the same: "
            f"give data.params.revision=COMMIT, of 40 hexadecimal digits{got}; "
            f"https://huggingface.co/datasets/{path}/commits/main lists them"
        )
    return f"{path}@{revision}"


def read(path: str, config: str, revision: str, files: Mapping[str, str]) -> dict[str, Table]:
    """Every split of a dataset, by its name there.

    Args:
        path: an id of the hub, a folder, or a file.
        config: the name of the dataset's configuration; empty: its only one.
        files: split -> file or pattern inside of the dataset; empty: as the dataset says.

    Raises:
        ValueError: if the dataset cannot be read; its token never stands in the message.
    """
    library = load("datasets", _NEEDED_BY)
    place = Path(path)
    try:
        if (place / "state.json").is_file():
            return {"train": library.load_from_disk(path)}
        if (place / "dataset_dict.json").is_file():
            return dict(library.load_from_disk(path))
        if place.is_file():
            return dict(library.load_dataset(_builder(path), data_files={"train": path}))
        if files:
            root = path if place.is_dir() else f"hf://datasets/{path}@{revision}"
            named = {split: f"{root}/{file}" for split, file in files.items()}
            return dict(library.load_dataset(_builder(next(iter(named.values()))), data_files=named))
        where = {} if place.is_dir() else {"revision": revision}
        return dict(library.load_dataset(path, name=config or None, **where))
    except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError) as e:
        raise ValueError(f"{_NEEDED_BY}: {path!r} cannot be read: {_reason(e)}") from None


def by_split(tables: Mapping[str, Table], wanted: Mapping[str, str], place: str) -> dict[str, tuple[str, Table]]:
    """Our split -> (its name there, table). A dataset's only split has the name "", unless `wanted` says more.

    Raises:
        LookupError: if `wanted` names a split that the dataset lacks.
    """
    if not wanted and len(tables) == 1:
        return {"": next(iter(tables.items()))}
    known = {"train": "train", "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "test": "test"}
    chosen = wanted or {known[name]: name for name in tables if name in known}
    for split, name in chosen.items():
        if name not in tables:
            raise LookupError(f"data.params.splits.{split}: {place} has no split {name!r}; {listed(name, tables)}")
    if not chosen:
        raise ValueError(
            f"{place} has the splits {', '.join(tables)}; say which is which with data.params.splits, such as "
            f"{{train: {next(iter(tables))}}}"
        )
    return {split: (name, tables[name]) for split, name in chosen.items()}


def listed(name: str, known: Collection[str]) -> str:
    """The end of a sentence about a name that is not among the known ones: these, and the nearest."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    return f"it has: {', '.join(known) or 'none'}{hint}"


def _builder(file: str) -> str:
    suffixes = Path(file).suffixes
    found = [_BUILDERS[suffix] for suffix in suffixes if suffix in _BUILDERS]
    if not found:
        raise ValueError(f"{file!r} must be of one of the formats {', '.join(_BUILDERS)}, plain or with .gz")
    return found[-1]


def _reason(error: Exception) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    said = f"{error}{cause}"
    if "scripts are no longer supported" in said:
        said += "; its author's code is never run: name its data files with data.params.files, such as {train: FILE}"
    token = load("huggingface_hub", _NEEDED_BY).get_token()
    return said.replace(token, "***") if token else said
