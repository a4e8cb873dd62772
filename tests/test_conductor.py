"""`rl-rerank run` on stages that need no model: running, skipping, refusing and going on after a kill."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl_rerank import conductor, ledger, plan
from rl_rerank.cli import main
from rl_rerank.compose import compose
from rl_rerank.config import Config
from rl_rerank.paths import read_jsonl

EXPERIMENT = """\
# @package _global_
stages:
  first_stage: {kind: rerank, model: first_stage, label: BM25}
  shown: {kind: rerank, model: first_stage}
  evaluate: {kind: evaluate, comparisons: [[shown, first_stage]]}
  report: {kind: report}
"""
STAGES = ["first_stage", "shown", "evaluate", "report"]


def row(number: int) -> dict[str, Any]:
    split = ("train", "dev", "test")[number % 3]
    docids = [f"q{number}-{letter}" for letter in "abcd"]
    candidates = [{"docid": d, "text": f"text of {d} number {number * 7}"} for d in docids]
    grade = {docids[number % 4]: 1}
    return {
        "qid": f"q{number}",
        "query": f"question {number}",
        "candidates": candidates,
        "qrels": grade,
        "split": split,
    }


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """The command line of a small experiment; its run goes to tmp_path/run."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(12)))
    return [
        f"--config-dir={tmp_path / 'conf'}",
        "experiment=tiny",
        "data=jsonl",
        f"data.path={tmp_path / 'data.jsonl'}",
        f"run_dir={tmp_path / 'run'}",
    ]


def composed(overrides: list[str]) -> Config:
    config = compose("run", overrides[1:], overrides[0].partition("=")[2])
    assert isinstance(config, Config)
    return config


def finished(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {entry["stage"]: entry for entry in read_jsonl(tmp_path / "run/ledger.jsonl")}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_goes_through_its_stages_and_the_next_one_skips_them(
    tmp_path: Path,
    overrides: list[str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-mine")
    assert main(["run", *overrides]) == 0
    assert list(finished(tmp_path)) == STAGES
    shown = capsys.readouterr().out
    assert "BM25" in shown
    assert str(tmp_path / "run/report") in shown
    assert json.loads((tmp_path / "run/config.json").read_text())["experiment"] == "tiny"
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or b"a-secret-of-mine" not in file.read_bytes()

    before = (tmp_path / "run/ledger.jsonl").read_bytes()
    caplog.clear()
    caplog.set_level("INFO")
    assert main(["run", *overrides]) == 0
    assert (tmp_path / "run/ledger.jsonl").read_bytes() == before
    assert [r.getMessage().split(":")[0] for r in caplog.records if "skipped" in r.getMessage()] == STAGES
    assert "BM25" in capsys.readouterr().out


def test_a_changed_configuration_is_refused_with_the_difference(
    tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["run", *overrides]) == 0
    files = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert main(["run", *overrides, "data.depth=3", "stages.report.title=New"]) == 2
    error = capsys.readouterr().err
    assert "data.depth: 10 -> 3; stages.report.title:  -> New. Give another run_dir=" in error
    assert f"remove {tmp_path / 'run/first_stage'}, {tmp_path / 'run/shown'}," in error
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == files


def test_a_half_finished_stage_is_done_again_and_keeps_its_configuration(
    tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
):
    ledger.begin(composed(overrides), "first_stage")
    (tmp_path / "run/first_stage/run.trec").write_text("cut sho")
    assert main(["run", *overrides, "stages.first_stage.seed=5"]) == 2
    assert "stages.first_stage.seed: 1 -> 5" in capsys.readouterr().err
    assert main(["run", *overrides]) == 0
    assert list(finished(tmp_path)) == STAGES


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, overrides: list[str]):
    process = subprocess.Popen([sys.executable, "-m", "rl_rerank", "run", *overrides])
    path = tmp_path / "run/ledger.jsonl"
    wait_until(lambda: path.is_file() and "first_stage" in path.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = finished(tmp_path)["first_stage"]
    assert main(["run", *overrides]) == 0
    assert list(finished(tmp_path)) == STAGES
    assert finished(tmp_path)["first_stage"] == first


def test_a_stage_that_is_removed_is_redone_with_all_that_followed_from_it(tmp_path: Path, overrides: list[str]):
    assert main(["run", *overrides]) == 0
    before = finished(tmp_path)
    shutil.rmtree(tmp_path / "run/shown")
    assert main(["run", *overrides]) == 0
    after = finished(tmp_path)
    assert [name for name in STAGES if after[name] != before[name]] == ["shown", "evaluate", "report"]
    # A trainer would find the old checkpoints and go on from them: old output does not stay in its place.
    assert (tmp_path / "run/superseded/evaluate-1/metrics.json").is_file()


def test_new_data_under_the_same_name_redo_the_run(tmp_path: Path, overrides: list[str]):
    assert main(["run", *overrides]) == 0
    before = finished(tmp_path)
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write(json.dumps(row(14)) + "\n")
    assert main(["run", *overrides]) == 0
    assert finished(tmp_path)["first_stage"] != before["first_stage"]
    assert (
        len((tmp_path / "run/first_stage/run.trec").read_text().splitlines()) == 5 * 4
    )  # test queries 2, 5, 8, 11, 14


def test_a_stage_that_fails_names_its_log(tmp_path: Path, overrides: list[str], caplog: pytest.LogCaptureFixture):
    assert main(["run", *overrides]) == 0
    shutil.rmtree(tmp_path / "run/evaluate")
    (tmp_path / "run/shown/run.trec").write_text("one two three\n")
    assert main(["run", *overrides]) == 2
    assert f"stage 'evaluate' failed with exit status 2; its log is {tmp_path / 'run/evaluate/log.txt'}" in caplog.text
    assert "Traceback" in (tmp_path / "run/evaluate/log.txt").read_text()
    assert "evaluate" not in finished(tmp_path)


def test_a_run_folder_has_one_conductor_at_a_time(
    tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["run", *overrides]) == 2
    assert f"another process (4711) is working in {tmp_path / 'run'}" in capsys.readouterr().err


def test_a_single_stage_runs_here_and_the_conductor_takes_it_over(
    tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["rerank", *overrides]) == 2
    assert "the experiment has 2 rerank stages; give stage=NAME, one of: first_stage, shown" in capsys.readouterr().err
    assert main(["rerank", *overrides, "stage=shown"]) == 0
    assert list(finished(tmp_path)) == ["shown"]
    assert main(["evaluate", *overrides]) == 2
    assert "first_stage" in capsys.readouterr().err
    assert main(["run", *overrides]) == 0
    assert sorted(finished(tmp_path)) == sorted(STAGES)


def test_a_dry_run_shows_the_arithmetic_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["stages.sft.max_steps=10", "stages.sft.batch_size=16", "stages.sft.micro_batch=4"]
    arguments += ["budget.pointwise_rows=60", "budget.listwise_rows=20", "budget.groupwise_rows=0"]
    arguments += ["budget.num_generations=8", "budget.prompts_per_step=6", "budget.grpo_steps=5"]
    run_dir = f"run_dir={tmp_path / 'run'}"
    assert main(["run", "experiment=quickstart", run_dir, "dry_run=true", *arguments]) == 0
    shown = capsys.readouterr().out
    # 10 steps x 16 rows = 160 rows, over 60 + 20 + 0 = 80 synthesised ones twice; 16 / 4 = 4 micro-batches
    assert "10 steps x 16 rows = 160 rows (2.0 passes over 80); 4 micro-batches of 4 a step" in shown
    # 6 x 8 = 48 completions a step, 5 x 48 = 240 in all; 48 / 8 = 6 micro-batches
    assert (
        "5 steps; 6 prompts x 8 generations = 48 completions a step, 240 in all; 6 micro-batches of 8 a step" in shown
    )
    assert "max_steps: 10" in shown
    assert not (tmp_path / "run").exists()


def test_accelerate_launches_the_training_stages_alone():
    config = compose("run", ["experiment=quickstart", "launcher=accelerate", "launcher.args=[--num_processes,2]"])
    assert isinstance(config, Config)
    assert conductor.command(config, "sft", ["experiment=quickstart"])[1:] == [
        *("-m", "accelerate.commands.launch", "--num_processes", "2"),
        *("-m", "rl_rerank", "sft", "experiment=quickstart", "stage=sft"),
    ]
    assert conductor.command(config, "evaluate", [])[1:] == ["-m", "rl_rerank", "evaluate", "stage=evaluate"]


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        (
            ["stages.sft_eval.model=sftt"],
            "stages.sft_eval.model names 'sftt', which is no stage; it can be: model, first_stage, sft",
        ),
        (["stages.grpo.model=synth"], "stages.grpo.model names 'synth', a synth stage; it must be a sft or grpo stage"),
        (["stages.untrained.model=sft"], "stages.untrained.model names 'sft', which does not come before it"),
        (["stages.sft.data=sft"], "stages.sft.data names 'sft', a sft stage"),
        (["stages.evaluate.runs=[sft]"], "stages.evaluate.runs names 'sft', a sft stage"),
        (["stages.evaluate.comparisons=[[sft_eval]]"], "a comparison is a pair [system, baseline]; got ['sft_eval']"),
        (["stages.evaluate.measures=[nDGC@10]"], "nDGC@10"),
        (["stages.export.model=model"], "stages.export.model names 'model', which is no stage; it can be: sft, grpo"),
        (["stages.untrained.split=tests"], "stages.untrained.split must be one of train, dev, test; got 'tests'"),
        (["stages.data.kind=report"], "stages.data: a stage's name is its folder's"),
        (["reward=[]"], "stages.grpo has no reward to train on"),
        (["reward=[ndcg]", "rewards.ndcg.params.kk=3"], "reward 'ndcg' has no parameter 'kk'; it has: k"),
        (["rewards.mine.weight=1"], "no reward is named 'mine'"),
        (["paradigm=pontwise"], "no paradigm is named 'pontwise'"),
        (["paradigms.listwise.params.windw=3"], "has no parameter 'windw'"),
        (["stages.synth.mixture.setwize=3"], "no paradigm is named 'setwize'"),
        (["data=jsonl", "data.path=nowhere.jsonl"], "data.path='nowhere.jsonl': there is no such file or folder"),
        (["data.source=jsonl"], "data.path is required for data.source=jsonl"),
        (["data.source=jsnl"], "no source is named 'jsnl'"),
        (
            ["stages.sft.batch_size=10"],
            "a step of batch_size=10 rows is not a multiple of micro_batch=4 x 1 processes = 4",
        ),
        (
            ["launcher=accelerate", "launcher.args=[--num_processes=3]", "budget.prompts_per_step=8"],
            "is not a multiple of micro_batch=",
        ),
    ],
)
def test_what_does_not_exist_is_refused_before_any_work(overrides: list[str], fragment: str):
    with pytest.raises((ValueError, LookupError, FileNotFoundError)) as caught:
        config = compose("run", ["experiment=quickstart", *overrides])
        assert isinstance(config, Config)
        plan.validate(config)
    assert fragment in str(caught.value)


def test_a_reward_file_that_changes_is_another_configuration(tmp_path: Path):
    file = tmp_path / "mine.py"
    source = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    x: float = 1.0\n"
    file.write_text(source)
    arguments = ["experiment=quickstart", f"reward=[{file}:Mine]", f"run_dir={tmp_path / 'run'}"]
    config = compose("run", arguments)
    assert isinstance(config, Config)
    ledger.begin(config, "grpo")
    ledger.refuse_changes(config, ["grpo"])
    file.write_text(source + "    y: float = 1.0\n")
    with pytest.raises(ValueError, match=r"rewards\.mine\.file_sha256: \w+ -> \w+"):
        ledger.refuse_changes(config, ["grpo"])
