"""The benchmark of the first step, on a small store."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "first_step.py"


def test_training_begins_on_generated_queries():
    command = [sys.executable, SCRIPT, "--queries", "20", "--stages", "scores", "rows"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    _, _, *rows = (line.strip("| ").split(" | ") for line in ended.stdout.splitlines() if line.startswith("|"))
    assert [(queries, stage) for queries, stage, *_ in rows] == [("20", "scores"), ("20", "rows")]
    assert all(float(begins) > 0 and float(step) > 0 and float(peak) > 100 for *_, begins, step, peak in rows)
