# ruff: noqa: T201 (a script that says what it runs)
"""Run the experiments of published systems on two CPU cores, one after another, and write docs/systems.md.

    python benchmarks/systems.py RUNS [--only NAME ...] [SETTING=VALUE ...]

A run folder RUNS/NAME is continued where it is; what is finished is not run again. With --only the page keeps what the
other folders hold. RUNS/NAME-published is read if it is there: a run of experiment=published.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from systems_page import DOCS, page
from systems_table import SYSTEMS, System

from rl_rerank.io.files import write_text


def run(system: System, folder: Path, settings: Sequence[str]) -> int:
    """Run the experiment to its end."""
    command = [sys.executable, "-m", "rl_rerank", "run", f"experiment={system.name}", "scale=cpu"]
    print(f"\n{system.title}: {' '.join(command[2:])}", flush=True)
    begin = time.monotonic()
    code = subprocess.run([*command, f"run_dir={folder}", *settings], check=False).returncode
    print(f"{system.title}: exit status {code} after {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="+", choices=[system.name for system in SYSTEMS])
    parser.add_argument("settings", nargs="*", help="of every run, such as data=collection data.path=FOLDER")
    given = parser.parse_args()
    codes = [
        run(system, given.runs / system.name, given.settings)
        for system in SYSTEMS
        if given.only is None or system.name in given.only
    ]
    write_text(DOCS / "systems.md", page(given.runs, given.settings))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
