"""A clock that jumps, and times of files that are wrong: nothing but records of time depends on them."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest
from accelerate import Accelerator
from support import plain_run

from rl_rerank.cli.main import main
from rl_rerank.experiment import run_lock, runner
from rl_rerank.io import manifest
from rl_rerank.training.loop.checkpoints import resumable_checkpoint

DAY = 86_400


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    plain_run.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.subprocesses, "run", plain_run.stage_here)
    return tmp_path


def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock jump a day ahead and two days back, in turn, whenever it is read."""
    real, jumps = time.time, itertools.cycle([DAY, -2 * DAY])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))


@pytest.mark.slow
def test_a_run_under_a_clock_that_jumps_ends_as_any_other_and_is_not_done_again(folder, monkeypatch, caplog):
    assert main(plain_run.arguments("steady")) == 0
    jumping(monkeypatch)
    assert main(plain_run.arguments("run")) == 0
    assert plain_run.results(folder / "run") == plain_run.results(folder / "steady")
    for age, path in enumerate(sorted((folder / "run").rglob("*"))):
        os.utime(path, (DAY * age, DAY * age))  # as if the clock had been wrong when the files were written
    ledger = (folder / "run/ledger.jsonl").read_text()
    caplog.set_level("INFO")
    assert main(plain_run.arguments("run")) == 0
    skipped = [r.getMessage().split(":")[0] for r in caplog.records if r.getMessage().endswith(" s), skipped")]
    assert skipped == plain_run.STAGES
    assert (folder / "run/ledger.jsonl").read_text() == ledger


def test_the_newest_checkpoint_is_that_of_the_largest_step_whatever_the_clock_said(tmp_path):
    for step, modified in ((2, 3 * DAY), (10, DAY), (6, 2 * DAY)):
        made = tmp_path / f"checkpoint-{step}"
        made.mkdir()
        (made / "model.safetensors").write_bytes(b"weights")
        manifest.write(made, {"layout": "unsharded"})
        for path in (*made.iterdir(), made):
            os.utime(path, (modified, modified))
    assert resumable_checkpoint(tmp_path, Accelerator(cpu=True)) == str(tmp_path / "checkpoint-10")


def test_a_lock_is_kept_while_the_clock_jumps(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "RENEWAL", 0.02)
    monkeypatch.setattr(run_lock, "PATIENCE", 0.1)
    jumping(monkeypatch)
    with run_lock.locked(tmp_path):
        for moment in (0, 10**10, 1):  # signs of life of 1970, of 2286 and of 1970 again
            os.utime(tmp_path / ".lock", (moment, moment))
            with (
                pytest.raises(ValueError, match=rf"another process \({os.getpid()} on .*\) is working in"),
                run_lock.locked(tmp_path),
            ):
                pass
    with run_lock.locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")
