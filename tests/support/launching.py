"""Scripts in a stage's place, started as the runner starts a training stage: alone or on two processes."""

import os
import subprocess

from rl_rerank.experiment import runner
from rl_rerank.experiment.compose import compose
from rl_rerank.io import build_locks
from rl_rerank.io.cache import cache_dir


def two_processes(strategy: str) -> list[str]:
    build_locks.prepare(cache_dir())  # as the command of a stage does, in whose place a script runs
    launcher = ["launcher=accelerate", f"launcher.strategy={strategy}", "launcher.num_processes=2"]
    command = runner.command(compose("run", ["experiment=quickstart_tokens", *launcher]), "grpo", [])
    return command[: -len(["-m", "rl_rerank", "grpo", "stage=grpo"])]


def run(command, model_dir, output, script):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, script, str(model_dir), str(output)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output
