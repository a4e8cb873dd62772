"""A headless Chromium, where one is installed: RL_RERANK_BROWSER names it, or it is found on the PATH."""

import os
import re
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")


def found() -> str | None:
    """The browser's command."""
    return os.environ.get("RL_RERANK_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


def language_of(page: str, folder: Path) -> str:
    """Load a page, wait for what it starts, and return the language of its document."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [found() or "", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=3000", "--dump-dom", path.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    match = re.search(r'<html[^>]* lang="([^"]*)"', ended.stdout)
    assert match is not None, ended.stdout[:300]
    return match[1]
