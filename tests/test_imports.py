"""What has to work where torch is not installed, and the plugin that a user installs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
