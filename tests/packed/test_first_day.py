"""The script for the first day on a GPU, in its small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_first_day.py"


def test_the_script_compares_packed_rows_with_trls_own_path(tmp_path):
    out = tmp_path / "out.json"
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--small", "--out", out], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    parts = json.loads(out.read_text())["parts"]
    assert [part["dtype"] for part in parts] == ["torch.float32", "torch.bfloat16"]
    assert all(part["is_equal"] and part["times_as_fast"] > 0 and part["estimated_gib"] > 0 for part in parts)
    assert 0 < parts[0]["nats_apart"] < 1e-5
