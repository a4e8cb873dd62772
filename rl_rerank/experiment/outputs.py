"""What stages read, the data store and what others left: noted when it is finished, compared before it is read.

A file that was replaced by hand, or by another program, would otherwise be taken for what the stage has made.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io import manifest
from rl_rerank.io.digest import of_file
from rl_rerank.io.files import read_json, write_json

FILE = "outputs.json"
"""In a stage's folder."""

PATTERNS: Mapping[str, tuple[str, ...]] = {
    "a model": ("model/*",),
    "a cross-encoder": ("model/*",),
    "a run": ("run.trec",),
    "examples": ("examples.jsonl", "rows.jsonl"),
    "measures": ("metrics.json",),
}
"""`StageConfig.leaves` -> the files that later stages read."""


def note(experiment: Experiment, name: str) -> None:
    """Note the files that a finished stage leaves to later ones."""
    folder = Path(experiment.config.run_dir) / name
    patterns = PATTERNS.get(experiment.config.stages[name].leaves, ())
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    _write(folder, paths)


def note_data(folder: Path) -> None:
    """Note the files of a data store, once: a store that is made again is another folder."""
    if not (folder / FILE).is_file():
        _write(folder, sorted(path for path in folder.iterdir() if path.is_file()))


def refuse_changed(experiment: Experiment, name: str) -> None:
    """Refuse to start a stage that reads files which have changed since the stages that wrote them were done.

    Raises:
        ValueError: with the file, and the stage that wrote it.
    """
    data = Path(experiment.config.run_dir) / "data"
    for change in _changes(data) if experiment.stages[name].settings.reads_data else ():
        raise ValueError(
            f"stage {name!r} reads {data}, which has changed since it was made: {change}. Put the file back, or remove "
            f"{data} to make it again"
        )
    for read in experiment.stages[name].inputs:
        folder = Path(experiment.config.run_dir) / read
        for change in _changes(folder):
            raise ValueError(
                f"stage {name!r} reads what stage {read!r} left, which has changed since: {change}. Put the file back, "
                f"or remove {folder} to redo that stage and all that follows from it"
            )


def _changes(folder: Path) -> Iterator[str]:
    if not (folder / FILE).is_file():
        return
    for name, entry in read_json(folder / FILE).items():
        path = folder / name
        # Files of gigabytes are read again only where they look changed; a copied run folder has new times.
        is_same = path.is_file() and _state(path) == [entry["bytes"], entry["modified"]]
        if not is_same and (change := manifest.difference(path, entry)) is not None:
            yield change


def _write(folder: Path, paths: Iterable[Path]) -> None:
    write_json(folder / FILE, {path.relative_to(folder).as_posix(): _entry(path) for path in paths})


def _entry(path: Path) -> dict[str, Any]:
    size, modified = _state(path)
    return {"bytes": size, "modified": modified, "sha256": of_file(path)}


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
