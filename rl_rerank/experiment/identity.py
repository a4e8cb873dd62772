"""What identifies the files that a configuration names: their contents, not how their paths are written."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rl_rerank.io import digest

ABSENT = "(not set)"
DIGEST = "_sha256"
"""End of the names of digests, beside the settings that name the files."""
WEIGHTS = f"weights{DIGEST}"
MODEL_SETTINGS = ("path", "model")
"""Settings that can name a model folder."""
MODEL_FILES = (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt", ".py")
"""What answers depend on: weights, settings, tokenizer, chat template and code."""


def with_digests(value: Any) -> Any:
    """A configuration, as plain values, with the digest of every plugin's file and model folder beside its name.

    `file_sha256` stands beside a `target`, `NAME_sha256` beside any other setting that is `path/to/file.py:Attribute`,
    and `weights_sha256` beside the name of a model folder on this machine.
    """
    if isinstance(value, list):
        return [with_digests(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        found[key] = with_digests(item)
        if not isinstance(item, str):
            continue
        if ".py:" in item and (file := Path(item.rpartition(":")[0])).is_file():
            found[_digest_name(key)] = digest.of_file(file)
        elif key in MODEL_SETTINGS and _is_model(folder := Path(item).expanduser()):
            found[WEIGHTS] = _of_model(folder)
    return found


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Sentences about the settings in which two configurations with digests differ.

    A path does not count if the digests of what it names are known. Neither does that of the data, which a store
    identifies.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        # None is a value that a setting can have, so a setting that is missing on one side needs a mark of its own.
        for key in [*old, *(k for k in new if k not in old)]:
            if not _is_path(key, old, new, place):
                one, other = old.get(key, ABSENT), new.get(key, ABSENT)
                if {_digest_name(key)} <= old.keys() & new.keys():
                    one, other = (plugin.rpartition(":")[2] for plugin in (one, other))
                yield from differences(one, other, f"{place}.{key}".removeprefix("."))
    elif old != new:
        yield f"{place}: {old} -> {new}"


def _is_path(key: str, old: Mapping[str, Any], new: Mapping[str, Any], place: str) -> bool:
    """Whether a setting says where something lies, and not what it is."""
    if key.endswith(DIGEST):
        # A run from before it was noted is not refused for want of it, nor one whose model is elsewhere by now.
        return key not in old or key not in new
    if f"{place.rpartition('.')[2]}.{key}" in ("data.path", "wording.file"):
        return True
    if key == "run":
        return _digest_name(key) in old and _digest_name(key) in new
    return key in MODEL_SETTINGS and WEIGHTS in old and WEIGHTS in new


def _digest_name(key: str) -> str:
    return f"{'file' if key == 'target' else key}{DIGEST}"


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "modules.json"))


def _of_model(folder: Path) -> str:
    # The modules of an encoder lie in folders such as 1_Pooling; checkpoints that lie there too are no part of it.
    files = [path for pattern in ("*", "[0-9]_*/*") for path in folder.glob(pattern)]
    counted = sorted(path for path in files if path.suffix in MODEL_FILES and path.is_file())
    return digest.of_json([[str(path.relative_to(folder)), _of_file(path, *_state(path))] for path in counted])


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    # The time of the last change of the entry cannot be set back, as that of the content can.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@cache
def _of_file(path: Path, size: int, modified: int, changed: int) -> str:
    """Digest of a file, computed once in a process while its state stays the same."""
    return digest.of_file(path)
