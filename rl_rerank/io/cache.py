"""Folders that are made once for a user: converted models, composed images."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Find the folder of what is made once: $RL_RERANK_CACHE, or rl-rerank in the user's cache folder."""
    if own := os.environ.get("RL_RERANK_CACHE"):
        return Path(own).expanduser()
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user).expanduser() if user else Path.home() / ".cache") / "rl-rerank"


def made_once(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache; if it is missing, fill a temporary one and rename it."""
    target = cache_dir() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(target)
        except OSError:
            # Another process finished first; its folder is the same.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
