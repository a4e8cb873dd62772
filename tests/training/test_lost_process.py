"""A process that is lost ends the others and the run, in a sentence and within a minute; the same command goes on."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.resumption import Launched, differences, prepare, run_command, wait_for_step

pytestmark = pytest.mark.process


def at_work_in(folder):
    """The processes whose working directory is a folder: process number -> its rank in training, if it has one."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve() and (process / "cmdline").read_bytes():
                environment = dict(one.partition(b"=")[::2] for one in (process / "environ").read_bytes().split(b"\0"))
                found[int(process.name)] = environment.get(b"RANK")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


@pytest.mark.parametrize("rank", [b"0", b"1"])
def test_a_killed_process_ends_the_run_which_goes_on_to_the_same_end(tiny_model_dir, tmp_path, monkeypatch, rank):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, tiny_model_dir)
    ddp = ["launcher=accelerate", "launcher.strategy=ddp", "launcher.num_processes=2"]
    run_dir, shown = tmp_path / "run", tmp_path / "shown.txt"
    command = run_command(run_dir, tiny_model_dir, *ddp)
    with shown.open("w") as out:
        settings = {"cwd": tmp_path, "stdout": out, "stderr": out, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        process = subprocess.Popen(command, start_new_session=True, **settings)
        wait_for_step(process, run_dir / "answers", 2)
        (lost,) = [number for number, one in at_work_in(tmp_path).items() if one == rank]
        os.kill(lost, signal.SIGKILL)
        killed = time.monotonic()
        assert process.wait(timeout=60) == 1
        while set(at_work_in(tmp_path)) - {os.getpid()}:
            assert time.monotonic() - killed < 60
            time.sleep(0.1)
        assert "stage 'answers' failed with exit status 1; its log is" in shown.read_text()
        subprocess.run(command, check=True, **settings)
    whole = shutil.copytree(run_dir, tmp_path / "whole")
    shutil.rmtree(whole / "answers")
    assert Launched(whole, tiny_model_dir, "answers", *ddp).wait() == 0
    assert differences(whole / "answers", run_dir / "answers") == []
