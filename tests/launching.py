"""How the conductor starts a training stage on two processes, for scripts that stand in a stage's place."""

from rl_rerank import conductor
from rl_rerank.compose import compose


def two_processes(strategy: str) -> list[str]:
    launcher = ["launcher=accelerate", f"launcher.strategy={strategy}", "launcher.num_processes=2"]
    command = conductor.command(compose("run", ["experiment=quickstart", *launcher]), "grpo", [])
    return command[: -len(["-m", "rl_rerank", "grpo", "stage=grpo"])]
