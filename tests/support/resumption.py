"""Short training stages that are killed and continued, and what of them has to be equal."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rl_rerank.experiment import runner
from rl_rerank.experiment.compose import compose
from rl_rerank.io.files import read_jsonl
from rl_rerank.stages.grpo import run as grpo_stage
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.sft import run as sft_stage
from rl_rerank.stages.synth import run as synth_stage

EXPERIMENT = """\
# @package _global_
paradigm: pointwise
stages:
  synth: {kind: synth, mixture: {pointwise: 7, listwise: 3}}
  answers: {kind: sft, batch_size: 4, micro_batch: 2}
  lists: {kind: sft, loss: softmax, list_size: 3, batch_size: 4, micro_batch: 2}
  tokens: {kind: grpo, prompts_per_step: 4, num_generations: 4, micro_batch: 8}
  scores: {kind: grpo, policy: scores, prompts_per_step: 4, num_generations: 4, micro_batch: 2}
  choice: {kind: grpo, policy: choice, prompts_per_step: 4, micro_batch: 2}
"""
REWARD = """\
import pathlib


class Letters:
    def __call__(self, example, rollout):
        if pathlib.Path("fails").exists() and rollout.prompt.qid in pathlib.Path("fails").read_text().split():
            raise OSError("no judge")
        return sum(c.isalpha() for c in rollout.completion.text) / (1 + len(rollout.completion.text))
"""
WHOLE_RUN = """\
# @package _global_
paradigm: pointwise
stages:
  synth: {kind: synth, mixture: {pointwise: 7, listwise: 3}}
  answers: {kind: sft, batch_size: 4, micro_batch: 2}
"""
STAGES = ("answers", "lists", "tokens", "scores", "choice")
REWARDS = {"tokens": "mine.py:Letters", "scores": "ndcg", "choice": "exact_match"}
"""Those that need one. Random text earns the first differently; it fails for the queries named in a file."""
COMMON = {"max_steps": 6, "save_steps": 1, "learning_rate": 1e-2, "warmup_ratio": 0.0, "trl": "{save_total_limit: 10}"}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # 10 rows and steps of 4: passes end within steps 3 and 5.
    "answers": ("answers", {}),
    "answers-lora": ("answers", {"lora": "{r: 4, dropout: 0.1}"}),
    "answers-logged-seldom": ("answers", {"save_steps": 2, "trl": "{logging_steps: 3, save_total_limit: 1}"}),
    "lists": ("lists", {}),
    "lists-lora": ("lists", {"lora": "{r: 4, dropout: 0.1}", "answer_weight": 0.0}),
    # Step 4 is the first one of whose pairs all weigh 1.
    "lists-curriculum": ("lists", {"loss": "ranknet", "curriculum": "{kind: normscore, steps: 4}", "data": "synth"}),
    "lists-budget": ("lists", {"micro_batch_tokens": 250, "lora": "{r: 4, dropout: 0.1}"}),
    "answers-budget": ("answers", {"micro_batch_tokens": 250}),
    "tokens": ("tokens", {}),
    "tokens-reused": ("tokens", {"policy.num_iterations": 2, "beta": 0.05}),
    "tokens-reused-lora": (
        "tokens",
        {"policy.num_iterations": 3, "lora": "{r: 4, dropout: 0.1}", "beta": 0.05, "max_steps": 5},
    ),
    "tokens-reused-packed": (
        "tokens",
        {
            "policy.num_iterations": 2,
            "policy.micro_batch_tokens": 600,
            "policy.dynamic_sampling": 1,
            "policy.zero_variance_std": 0.2,
            "curriculum": "{kind: pass_rate}",
        },
    ),
    "tokens-teacher": (
        "tokens",
        {"policy.num_iterations": 2, "policy.distill": "{model: model, weight: 0.5}", "policy.micro_batch_tokens": 600},
    ),
    "tokens-first-stage": (
        "tokens",
        {"curriculum": "{kind: normscore, steps: 4}", "policy.dynamic_sampling": 1, "policy.zero_variance_std": 0.2},
    ),
    "tokens-dev": ("tokens", {"policy.num_iterations": 2, "eval_steps": 1, "keep": "best", "patience": 4}),
    # Without a learning rate no evaluation is better than the first.
    "tokens-stopped": ("tokens", {"learning_rate": "1e-30", "eval_steps": 1, "patience": 4}),
    "tokens-logged-seldom": (
        "tokens",
        {"policy.num_iterations": 2, "save_steps": 3, "trl": "{logging_steps: 4, save_total_limit: 1}"},
    ),
    "scores": ("scores", {"beta": 0.05}),
    "scores-lora-dev": (
        "scores",
        {"beta": 0.05, "lora": "{r: 4, dropout: 0.1}", "eval_steps": 2, "keep": "best", "patience": 2},
    ),
    "scores-budget": ("scores", {"beta": 0.05, "policy.micro_batch_tokens": 250}),
    "choice": ("choice", {"beta": 0.05}),
    "choice-budget": ("choice", {"beta": 0.05, "policy.micro_batch_tokens": 200}),
    "choice-lora": ("choice", {"beta": 0.05, "lora": "{r: 4, dropout: 0.1}"}),
}
"""Case -> the stage, and its settings above `COMMON`."""


def begun(folder: Path, name: str) -> Path:
    """A run's folder in which only the synth stage has run, as `prepare` left it."""
    shutil.rmtree(folder / name, ignore_errors=True)
    return shutil.copytree(folder / "prepared", folder / name)


def prepare(folder: Path, model_dir: Path) -> None:
    """Write the experiment, its data and the rows of its synth stage; the other functions work in such a folder."""
    (folder / "conf/experiment").mkdir(parents=True)
    (folder / "conf/experiment/resumed.yaml").write_text(EXPERIMENT)
    (folder / "conf/experiment/whole_run.yaml").write_text(WHOLE_RUN)
    (folder / "mine.py").write_text(REWARD)
    with (folder / "data.jsonl").open("w") as file:
        for i in range(12):
            candidates = [
                {"docid": f"{i}{c}", "text": f"the text {c} {i} " * (k + 1), "score": 9 - k * i}
                for k, c in enumerate("abc")
            ]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}{'abc'[i % 3]}": 1}}
            file.write(json.dumps({**row, "split": "dev" if i < 3 else "train"}) + "\n")
    os.chdir(folder)  # where experiments are looked up
    config = compose("run", arguments(folder / "prepared", model_dir, "tokens"))
    synth_stage.run(config, "synth", config.stages["synth"])


def arguments(run_dir: Path, model_dir: Path, case: str) -> list[str]:
    """The overrides that make a case of the experiment, in the folder above `run_dir`."""
    stage, settings = CASES[case]
    return [
        *("experiment=resumed", "data=jsonl", "data.path=data.jsonl", f"run_dir={run_dir}", "report_to=[]"),
        *(f"model.path={model_dir}", "model.max_prompt_tokens=400", f"reward=[{REWARDS.get(stage, 'ndcg')}]"),
        *(f"++stages.{stage}.{name}={value}" for name, value in {**COMMON, **settings}.items()),
    ]


def run_command(run_dir: Path, model_dir: Path, *more: str) -> list[str]:
    """The command that runs the stages of `WHOLE_RUN`, in the folder above `run_dir`."""
    overrides = arguments(run_dir, model_dir, "answers")[1:]
    return [sys.executable, "-m", "rl_rerank", "run", "experiment=whole_run", *overrides, *more]


def train(run_dir: Path, model_dir: Path, case: str, *more: str) -> None:
    """Run a case's stage, or continue it."""
    os.chdir(run_dir.parent)
    config = compose("run", [*arguments(run_dir, model_dir, case), *more])
    name = CASES[case][0]
    stage = config.stages[name]
    (grpo_stage if isinstance(stage, GRPOStage) else sft_stage).run(config, name, stage)


def cut(run_dir: Path, stage: str, step: int) -> None:
    """Leave of a finished stage what a kill right behind the checkpoint of `step` would have left."""
    shutil.rmtree(run_dir / stage / "model")
    for later in steps(run_dir / stage):
        if later > step:
            shutil.rmtree(run_dir / stage / f"checkpoints/checkpoint-{later}")


class Forked:
    """`train` in a process of its own, forked from one that has imported everything."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "rl_rerank.stages.grpo.run",
            "rl_rerank.stages.sft.run",
            "rl_rerank.training.grpo.trainer",
            "rl_rerank.training.loop.answers",
            "deepspeed",
        ]
    )

    def __init__(self, run_dir: Path, model_dir: Path, case: str, *more: str) -> None:
        self.process = self.context.Process(target=train, args=(run_dir, model_dir, case, *more))
        self.process.start()

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.exitcode

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        self.process.join()
        return self.process.exitcode


class Launched:
    """A case's stage, started as the runner starts it.

    Args:
        largest_file: bytes above which a file cannot grow, as on a disk that is full.
    """

    def __init__(
        self, run_dir: Path, model_dir: Path, case: str, *more: str, largest_file: int = resource.RLIM_INFINITY
    ) -> None:
        overrides = [*arguments(run_dir, model_dir, case), *more]
        os.chdir(run_dir.parent)
        command = runner.command(compose("run", overrides), CASES[case][0], overrides)
        self.log = run_dir.with_suffix(".log")
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                command,
                cwd=run_dir.parent,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file)),
            )

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.poll()

    def kill(self) -> None:
        """Kill the launcher, if any, and all processes with SIGKILL."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        return self.process.wait()


def seconds_per_step(process: Forked | Launched, stage_dir: Path) -> float:
    """Wait for the end of a stage; returns the time between its steps.

    Raises:
        AssertionError: if it fails.
    """
    seen: dict[int, float] = {}
    while process.poll() is None:
        seen.setdefault(logged(stage_dir), time.monotonic())
        time.sleep(0.002)
    assert process.wait() == 0
    times = [moment for step, moment in seen.items() if step]
    return (times[-1] - times[0]) / max(len(times) - 1, 1)


def kill_between_steps(process: Forked | Launched, stage_dir: Path, step: int, delay: float) -> None:
    """Kill a stage some seconds after a step was logged."""
    wait_for_step(process, stage_dir, step)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def wait_for_step(process: Any, stage_dir: Path, step: int) -> None:
    """Wait until a stage has logged a step.

    Args:
        process: the stage's, with `poll()`.
    """
    while logged(stage_dir) < step:
        assert process.poll() is None, f"ended with {process.poll()} before step {step}"
        time.sleep(0.002)


def logged(stage_dir: Path) -> int:
    """The last step in a stage's metrics, of which the last line may be half written."""
    path = stage_dir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def steps(stage_dir: Path) -> list[int]:
    """The steps of a stage's checkpoints."""
    return sorted(int(path.name.rpartition("-")[2]) for path in stage_dir.glob("checkpoints/checkpoint-*"))


def differences(one: Path, two: Path) -> list[str]:
    """Name what differs between two finished stages: weights, optimizer, scheduler, RNG, logged rows, best step."""
    found = [name for name in ("metrics.jsonl", "completions.jsonl") if _rows(one / name) != _rows(two / name)]
    if _json(one / "best.json") != _json(two / "best.json"):
        found.append("best.json")
    if steps(one) != steps(two):
        return [*found, f"checkpoints {steps(one)} and {steps(two)}"]
    last = f"checkpoints/checkpoint-{steps(one)[-1]}"
    for folder, pattern in (("model", "*.safetensors"), (last, "*.safetensors"), (last, "**/*.pt"), (last, "*.pth")):
        files = [sorted(path.relative_to(side) for path in (side / folder).glob(pattern)) for side in (one, two)]
        if files[0] != files[1]:
            found.append(f"files {files}")
            continue
        found += [str(name) for name in files[0] if not _equal(_loaded(one / name), _loaded(two / name))]
    state = [_json(side / last / "trainer_state.json") for side in (one, two)]
    kept = ("global_step", "epoch", "best_metric", "best_global_step", "num_input_tokens_seen")
    found += [name for name in kept if state[0][name] != state[1][name]]
    return found


def _rows(path: Path) -> list[Any] | None:
    if not path.exists():
        return None
    return [{k: v for k, v in row.items() if not _is_timing(k)} for row in read_jsonl(path)]


def _is_timing(name: str) -> bool:
    return name.startswith(("time/", "tokens_per_second/")) or name.endswith("/seconds") or name == "step_time"


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _loaded(path: Path) -> Any:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(_equal, one, two))
    if hasattr(one, "tolist"):
        return one.tolist() == two.tolist()
    # DeepSpeed saves an object of its own.
    return one == two or (type(one).__module__.startswith("deepspeed") and vars(one) == vars(two))
