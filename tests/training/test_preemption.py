"""Training that a scheduler stops ends at its step with a checkpoint and status 75, and goes on bit for bit."""

import os
import shutil
import signal
import subprocess

import pytest
from support.resumption import (
    CASES,
    Forked,
    Launched,
    begun,
    differences,
    logged,
    prepare,
    run_command,
    steps,
    train,
    wait_for_step,
)

from rl_rerank.io import requeue

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    found = tmp_path_factory.mktemp("preempted")
    prepare(found, tiny_model_dir)
    return found


@pytest.fixture
def begin(folder, monkeypatch):
    """Make a run's folder in which only the synth stage has run."""
    monkeypatch.chdir(folder)
    return lambda name: begun(folder, name)


@pytest.mark.parametrize(
    ("case", "signum"),
    [
        ("answers", signal.SIGTERM),
        ("lists", signal.SIGUSR1),
        ("tokens-reused", signal.SIGUSR1),
        ("scores", signal.SIGTERM),
    ],
)
def test_a_signalled_stage_saves_a_checkpoint_at_its_step_and_goes_on_to_the_same_end(
    begin, tiny_model_dir, case, signum
):
    stage = CASES[case][0]
    seldom = f"stages.{stage}.save_steps=6"  # the only checkpoint but the last is that of the signal
    whole, again = begin("whole"), begin("again")
    train(whole, tiny_model_dir, case, seldom)
    process = Forked(again, tiny_model_dir, case, seldom)
    wait_for_step(process, again / stage, 2)
    os.kill(process.process.pid, signum)
    assert process.wait() == 75
    assert requeue.is_stopped(again / stage)
    assert not (again / stage / "model").exists()
    saved = steps(again / stage)
    assert len(saved) == 1 and 2 <= saved[0] <= 4
    assert logged(again / stage) == saved[0]
    train(again, tiny_model_dir, case, seldom)
    shutil.rmtree(again / stage / f"checkpoints/checkpoint-{saved[0]}")
    assert differences(whole / stage, again / stage) == []


def test_a_run_passes_the_signal_on_through_its_launcher_and_goes_on_to_the_same_end(begin, folder, tiny_model_dir):
    ddp = ["launcher=accelerate", "launcher.strategy=ddp", "launcher.num_processes=2"]
    # Enough steps that the stage sees the signal before it ends.
    settings = ["stages.answers.max_steps=300", "stages.answers.save_steps=300"]
    whole, again = begin("whole"), begin("again")
    assert Launched(whole, tiny_model_dir, "answers", *ddp, *settings).wait() == 0
    shutil.rmtree(again)
    command = run_command(again, tiny_model_dir, *ddp, *settings)
    shown = folder / "shown.txt"
    with shown.open("w") as out:
        settings = {"stdout": out, "stderr": out, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        process = subprocess.Popen(command, cwd=folder, start_new_session=True, **settings)
        wait_for_step(process, again / "answers", 2)
        # As Slurm does it: every process of the job receives it, the launcher too.
        os.killpg(process.pid, signal.SIGUSR1)
        assert process.wait() == 75, shown.read_text()[-3000:]
        (saved,) = steps(again / "answers")
        assert "answers: SIGUSR1; waits for the end of its step" in shown.read_text()
        assert saved < 300
        assert f"answers: stopped on request, with a checkpoint of step {saved}" in shown.read_text()
        assert "stopped on request; the same command goes on from here (exit status 75)" in shown.read_text()
        subprocess.run(command, cwd=folder, check=True, **settings)
    assert not requeue.is_stopped(again / "answers")
    shutil.rmtree(again / f"answers/checkpoints/checkpoint-{saved}")
    assert differences(whole / "answers", again / "answers") == []
