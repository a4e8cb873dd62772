"""What has to work where torch is not installed, and the plugin that a user installs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Rollout, Status

PLUGIN = Path(__file__).parent.parent / "examples/reward_plugin"
EXPERIMENT = """\
# @package _global_
stages:
  first_stage: {kind: rerank, model: first_stage}
  evaluate: {kind: evaluate}
  report: {kind: report}
"""


def row(number: int) -> dict[str, Any]:
    candidates = [{"docid": f"{number}{letter}", "text": f"text {number} {letter}"} for letter in "abc"]
    ranked = {"qid": f"q{number}", "query": f"question {number}", "candidates": candidates}
    return {**ranked, "qrels": {f"{number}b": 1}, "split": ("train", "test")[number % 2]}


DATA = "".join(json.dumps(row(i)) + "\n" for i in range(6))


@pytest.fixture
def no_torch(tmp_path: Path) -> Path:
    """A folder that makes `import torch` and its like fail for whoever has it on its path."""
    folder = tmp_path / "no_torch"
    folder.mkdir()
    for name in ("torch", "transformers", "trl", "peft", "vllm"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    return folder


def environment(path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}


def command(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rl_rerank", *arguments],
        env=environment(path),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
def test_the_interpreter_of_these_tests_has_no_torch(no_torch: Path):
    probe = [sys.executable, "-c", "import torch"]
    ended = subprocess.run(probe, env=environment(no_torch), capture_output=True, check=False)
    assert b"torch was imported" in ended.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["grpo", "--help"],
        ["rewards", "list"],
        ["rewards", "check", "ndcg"],
        ["run", "experiment=quickstart_tokens", "dry_run=true"],
    ],
)
def test_commands_that_train_nothing_need_no_torch(no_torch: Path, arguments: list[str]):
    ended = command(*arguments, path=no_torch)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.process
def test_a_run_file_is_measured_without_torch(no_torch: Path, tmp_path: Path):
    (tmp_path / "a.run").write_text("q1 Q0 a 1 2.0 x\n")
    (tmp_path / "a.qrels").write_text("q1 0 a 1\n")
    ended = command("evaluate", f"run={tmp_path / 'a.run'}", f"qrels={tmp_path / 'a.qrels'}", path=no_torch)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["mean"] == {"nDCG@10": 1.0}


@pytest.mark.process
def test_stored_completions_are_parsed_without_torch(no_torch: Path, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"n": 2, "text": "[2] > [1]"}\n')
    ended = command("parse", "paradigm=listwise", f"completions={tmp_path / 'rows.jsonl'}", path=no_torch)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["order"] == [2, 1]


@pytest.mark.process
def test_a_first_stage_is_run_measured_and_reported_without_torch(no_torch: Path, tmp_path: Path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    (tmp_path / "data.jsonl").write_text(DATA)
    ended = command(
        *("run", f"--config-dir={tmp_path / 'conf'}", "experiment=tiny", "data=jsonl"),
        *(f"data.path={tmp_path / 'data.jsonl'}", f"run_dir={tmp_path / 'run'}"),
        path=no_torch,
    )
    assert ended.returncode == 0, ended.stderr
    assert "nDCG@10" in ended.stdout


@pytest.mark.process
def test_a_stage_that_needs_torch_says_what_to_install(no_torch: Path, tmp_path: Path):
    for file in no_torch.iterdir():
        file.write_text(f"raise ModuleNotFoundError({file.stem!r}, name={file.stem!r})\n")
    (tmp_path / "data.jsonl").write_text(DATA)
    arguments = ["experiment=quickstart_tokens", "data=jsonl", f"data.path={tmp_path / 'data.jsonl'}"]
    ended = command("sft", *arguments, "stage=sft", f"run_dir={tmp_path / 'run'}", path=no_torch)
    assert ended.returncode == 2
    assert "Install it with: pip install 'rl-rerank[train]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture(scope="module")
def installed_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the dev extra has it")
    target = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(PLUGIN)], check=True, capture_output=True)
    return target


@pytest.mark.process
def test_an_installed_plugin_is_listed_and_chosen_by_name(installed_plugin: Path):
    listed = command("rewards", "list", path=installed_plugin)
    assert "mine(x=1.0)\n    Reciprocal rank of the first relevant document" in listed.stdout
    arguments = ("run", "experiment=quickstart", "reward=[ndcg,mine]", "rewards.mine.params.x=3", "dry_run=true")
    arguments += ("model.path=nowhere",)  # without a tokenizer no prompts are made, which would take a while
    planned = command(*arguments, path=installed_plugin)
    assert planned.returncode == 0, planned.stderr
    assert "  mine:\n    weight: 1.0\n    target: null\n    params:\n      x: 3\n" in planned.stdout
    refused = command(*arguments, "rewards.mine.params.y=3", path=installed_plugin)
    assert refused.returncode == 2
    assert "reward 'mine' has no parameter 'y'; it has: x" in refused.stderr


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"a": 3.0, "b": 2.0, "c": 1.0}, 2 * 1 / 2),  # b is the first relevant one, at rank 2
        ({"c": 3.0, "a": 2.0, "b": 1.0}, 2 * 1 / 1),
        ({"a": 1.0, "b": 1.0}, 2 * (1 / 1 + 1 / 2) / 2),  # b is first or second, each half the time
        ({"a": 2.0, "x": 1.0, "b": 1.0, "c": 1.0}, 2 * (2 / 3 * 1 / 2 + 1 / 3 * 1 / 3)),  # x is first of three: 1/3
        ({}, 0.0),
        ({"a": 1.0}, 0.0),
    ],
)
def test_the_plugins_reward_by_hand(scores: dict[str, float], expected: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(PLUGIN)
    from my_rewards.mine import Mine  # pyright: ignore[reportMissingImports]

    example = RankingExample("q", "query", (), qrels={"a": 0, "b": 1, "c": 2})
    judgment = Judgment(Status.ok if scores else Status.tags, scores)
    rollout = Rollout(Prompt("q", tuple(scores), ()), Completion(""), judgment)
    assert Mine(x=2.0)(example, rollout) == pytest.approx(expected)
