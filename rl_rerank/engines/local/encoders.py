"""Encoders of texts by name: the embedded one, a folder of sentence-transformers, or a hub id. Free of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rl_rerank.engines.local import hub, minilm
from rl_rerank.io import digest

MODULES = "modules.json"
_COUNTED = (".safetensors", ".json", ".txt", ".model")
"""Endings of the files that embeddings depend on."""


def check(place: str, name: str) -> None:
    """Refuse an encoder that is known to be missing, without a download.

    Args:
        place: the setting that names it.

    Raises:
        ImportError: for the embedded encoder if its package is not installed.
        FileNotFoundError, ValueError: for a missing folder or one without an encoder.
    """
    if name == minilm.NAME:
        minilm.archive()
    elif hub.is_folder(name):
        modules(place, Path(name).expanduser())


def locate(place: str, name: str, revision: str | None = None) -> Path:
    """Find the folder of an encoder; extract or download it if necessary.

    Args:
        place: the setting that names it.

    Raises:
        ImportError: for the embedded encoder if its package is not installed.
        FileNotFoundError, ValueError: for a missing folder, one without an encoder, or files that are not the published
            ones of the embedded encoder.
        LookupError: for a hub id that cannot be downloaded.
    """
    if name == minilm.NAME:
        return minilm.folder()
    found = Path(name).expanduser() if hub.is_folder(name) else hub.snapshot(place, name, revision)
    modules(place, found)
    return found


def identity(place: str, name: str, revision: str | None = None) -> str:
    """Compute the SHA-256 of an encoder's files; `locate` documents the arguments and errors."""
    if name == minilm.NAME:
        return digest.of_json(minilm.SHA256)  # known without the files
    folder = locate(place, name, revision)
    files = sorted(path for path in folder.rglob("*") if path.suffix in _COUNTED and path.is_file())
    return digest.of_json([[str(path.relative_to(folder)), digest.of_file(path)] for path in files])


def modules(place: str, folder: Path) -> list[dict[str, Any]]:
    """Read the modules of a folder of sentence-transformers.

    Raises:
        FileNotFoundError: if there is no folder.
        ValueError: if it holds no encoder that gives one vector for a text, or one with code of its own.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{place}={str(folder)!r}: there is no such folder")
    advice = f"give {minilm.NAME!r}, or a folder that SentenceTransformer.save_pretrained has written"
    refused = f"{place}={str(folder)!r} is no encoder"
    if not (folder / MODULES).is_file():
        raise ValueError(f"{refused}, because it has no {MODULES}; {advice}")
    found = settings(folder, MODULES)
    if not isinstance(found, list) or not all(isinstance(m, dict) and {"type", "path"} <= m.keys() for m in found):
        raise ValueError(f"{refused}, because {MODULES} is no list of modules with a type and a path; {advice}")
    kind = settings(folder, "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ValueError(f"{refused} that gives one vector for a text: it is a {kind}; {advice}")
    for module in found:
        if not module["type"].startswith("sentence_transformers."):
            raise ValueError(f"{refused} of known modules: {module['type']} is code of its own; {advice}")
        if module["type"].endswith(".Transformer") and not any((folder / module["path"]).glob("*.safetensors")):
            raise ValueError(
                f"{refused} in safe files, because it has no *.safetensors; other formats are not read, because "
                f"pickles can run code; {advice}"
            )
    return found


def settings(folder: Path, name: str) -> Any:
    """Read a JSON file of a folder; an empty mapping if there is none.

    Raises:
        ValueError: with the path, for a file that is not JSON.
    """
    path = folder / name
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except json.JSONDecodeError as e:
        raise ValueError(f"{str(path)!r} is not JSON ({e.msg})") from None
