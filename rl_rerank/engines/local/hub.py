"""Models of the Hugging Face hub as folders of this machine. Free of torch."""

from pathlib import Path

from rl_rerank.requirements import load

# Python pickles (*.bin, *.pt) can run code when they are read, so they are never fetched.
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


def is_folder(name: str) -> bool:
    """Whether a model's name can only be a folder, there or not."""
    folder = Path(name).expanduser()
    return folder.is_dir() or folder.is_absolute() or name.startswith((".", "~"))


def is_path(name: str) -> bool:
    """Whether a name is a folder's or a hub id's where it could also be a stage's, which has no slash."""
    return "/" in name or name.startswith((".", "~"))


def snapshot(place: str, name: str, revision: str | None, *, with_code: bool = False) -> Path:
    """Find the folder of a hub id, downloaded if necessary.

    Args:
        place: the setting that names it, for the error.
        with_code: also fetch Python files.

    Raises:
        LookupError: if it cannot be downloaded.
    """
    library = load("huggingface_hub", f"{place}={name!r}")
    errors = library.errors
    patterns = [*_FILES, "*.py"] if with_code else _FILES
    try:
        found = library.snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
    ) as e:
        raise LookupError(
            f"{place}={name!r} is neither a folder here nor a model that the hub gives "
            f"(revision {revision or 'main'}): {' '.join(str(e).split())}"
        ) from e
    return Path(found)
