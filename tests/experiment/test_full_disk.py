"""A run on a disk that is full, or read-only: every writer ends in a sentence, and nothing that is finished is lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import plain_run

pytestmark = pytest.mark.process

CLIMB = """\
import contextlib, io, json, os, sys
from pathlib import Path
from support import small_disk
small_disk.own_mounts()
from rl_rerank.cli.main import main
from rl_rerank.experiment import runner
from support import plain_run

runner.subprocesses.run = plain_run.stage_here
folder, step = Path(sys.argv[1]), 5
os.chdir(folder)
command = plain_run.arguments(folder / "disk/run")


def attempt(pages):
    shown = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(shown):
        status = main(command)
    ledger = folder / "disk/run/ledger.jsonl"
    done = [json.loads(line)["stage"] for line in ledger.read_text().splitlines()] if ledger.exists() else []
    return {"pages": pages, "status": status, "shown": shown.getvalue(), "done": done}


def contents():
    return {name: text.hex() for name, text in plain_run.results(folder / "disk/run").items()}


with small_disk.disk(folder / "disk", 5000):
    assert attempt(5000)["status"] == 0
    undisturbed = contents()
    used = 5000 - small_disk.pages_left(folder / "disk")
attempts = []
with small_disk.disk(folder / "disk", 1) as disk:
    while not attempts or attempts[-1]["status"]:
        pages = 1 + step * len(attempts)
        small_disk.resize(disk, pages)
        attempts.append(attempt(pages))
        assert pages < 2 * used
    again = contents()
with small_disk.disk(folder / "disk", 5000) as disk:
    small_disk.make_read_only(disk)
    read_only = attempt(5000)
print(json.dumps({"attempts": attempts, "same": again == undisturbed, "files": len(again), "read_only": read_only}))
"""


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run said on a disk that began with one page and grew by five whenever it was full."""
    folder = tmp_path_factory.mktemp("climbed")
    plain_run.write(folder)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CLIMB, str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_a_run_on_a_disk_that_grows_ends_as_the_undisturbed_one_and_redoes_nothing(climbed: dict[str, Any]):
    *failed, last = climbed["attempts"]
    assert len(failed) > 6 and {one["status"] for one in failed} == {2}
    assert last["status"] == 0 and sorted(last["done"]) == sorted(plain_run.STAGES)
    assert climbed["same"] and climbed["files"] > 15
    for before, after in zip(failed, climbed["attempts"][1:], strict=True):
        assert set(before["done"]) <= set(after["done"])
        for stage in before["done"]:
            assert f"{stage}: starts" not in after["shown"]


WRITERS = {
    "data": r"run/\.data\.\w+(/[\w.]+)? cannot be written",
    "state": r"run/(config\.json|ledger\.jsonl|\w+/(stage|outputs)\.json) cannot be written",
    "synth": r"run/synth/[\w/.]+ cannot be written",
    "rerank": r"run/(first_stage|shown)/[\w.]+ cannot be written",
    "report": r"run/report/[\w.]+ cannot be written",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_with_the_file_that_could_not_be_written(climbed: dict[str, Any], writer: str):
    full = r": No space left on device; 0 MiB are free there\. The same command goes on when it can be"
    sentence = re.compile(f"^rl-rerank: \\S+/{WRITERS[writer]}{full}$", re.MULTILINE)
    assert any(sentence.search(one["shown"]) for one in climbed["attempts"]), climbed["attempts"]


def test_nothing_is_shown_on_a_full_disk_but_sentences(climbed: dict[str, Any]):
    for one in climbed["attempts"][:-1]:
        assert "Traceback" not in one["shown"] and "Logging error" not in one["shown"]
        sentences = [line for line in one["shown"].splitlines() if line.startswith("rl-rerank: ")]
        assert len(sentences) == 1 and "No space left on device" in sentences[0]


def test_a_run_in_a_read_only_folder_is_refused_with_its_name(climbed: dict[str, Any]):
    assert climbed["read_only"]["status"] == 2
    assert re.search(
        r"^rl-rerank: .*Read-only file system: '\S+/disk/run'$", climbed["read_only"]["shown"], re.MULTILINE
    )
    assert climbed["read_only"]["done"] == []
