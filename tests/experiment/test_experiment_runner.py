"""`rl-rerank run` on stages that need no model: running, skipping, refusing and going on after a kill."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.plain_run import row, stage_here

from rl_rerank.cli.main import main
from rl_rerank.config import Config
from rl_rerank.experiment import run_state, runner
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.io.files import conf_dir, read_jsonl

EXPERIMENT = """\
# @package _global_
stages:
  first_stage: {kind: rerank, model: first_stage, label: BM25}
  shown: {kind: rerank, model: first_stage}
  evaluate: {kind: evaluate, comparisons: [[shown, first_stage]]}
  report: {kind: report}
"""
OVERRIDES = ["experiment=tiny", "data=jsonl", "data.path=data.jsonl", "run_dir=run"]
COMMAND = [sys.executable, "-m", "rl_rerank", "run", *OVERRIDES]
STAGES = ["first_stage", "shown", "evaluate", "report"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small experiment and its data."""
    folder = tmp_path_factory.mktemp("pristine")
    (folder / "conf/experiment").mkdir(parents=True)
    (folder / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    (folder / "data.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(12)))
    return folder


@pytest.fixture
def stages_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.subprocesses, "run", stage_here)


@pytest.fixture(scope="module")
def finished(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder after a run whose stages ran in this process."""
    folder = tmp_path_factory.mktemp("finished") / "copy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.subprocesses, "run", stage_here)
        enter(pristine, folder, patch)
        assert main(["run", *OVERRIDES]) == 0
    return folder


@pytest.fixture(scope="module")
def finished_by_command(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder after a run, made by the command as a user calls it."""
    folder = tmp_path_factory.mktemp("finished_by_command") / "copy"
    shutil.copytree(pristine, folder)
    environment = {**os.environ, "WANDB_API_KEY": "a-secret-of-mine"}
    with (folder / "output.txt").open("w") as output:
        subprocess.run(COMMAND, cwd=folder, env=environment, stdout=output, check=True)
    return folder


@pytest.fixture
def fresh_folder(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(pristine, tmp_path / "copy", monkeypatch)


@pytest.fixture
def finished_folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(finished, tmp_path / "copy", monkeypatch)


def enter(source: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(source, copy)
    monkeypatch.chdir(copy)
    return copy


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["stage"]: entry for entry in read_jsonl(folder / "run/ledger.jsonl")}


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.process
def test_a_run_goes_through_its_stages_and_shows_what_came_out(finished_by_command: Path):
    assert list(entries(finished_by_command)) == STAGES
    shown = (finished_by_command / "output.txt").read_text()
    assert "| BM25 |" in shown
    assert "report: run/report/" in shown
    assert json.loads((finished_by_command / "run/config.json").read_text())["experiment"] == "tiny"


@pytest.mark.process
def test_a_run_keeps_no_secret_of_the_environment(finished_by_command: Path):
    assert not [path for path, content in contents(finished_by_command).items() if b"a-secret-of-mine" in content]


def test_the_same_command_again_skips_what_is_done(
    finished_folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    (finished_folder / "run/.lock").write_text("1")  # of the process that has run it
    before = contents(finished_folder)
    assert main(["run", *OVERRIDES]) == 0
    skipped = [r.getMessage() for r in caplog.records if r.getMessage().endswith(" s), skipped")]
    assert [line.split(":")[0] for line in skipped] == STAGES
    assert "| BM25 |" in capsys.readouterr().out
    after = contents(finished_folder)
    assert [path for path in after if after[path] != before.get(path)] == [finished_folder / "run/.lock"]


def test_a_changed_configuration_is_refused_with_the_difference(
    finished_folder: Path, capsys: pytest.CaptureFixture[str]
):
    before = contents(finished_folder)
    assert main(["run", *OVERRIDES, "data.depth=3", "stages.report.title=New"]) == 2
    error = capsys.readouterr().err
    assert "data.depth: 10 -> 3; stages.report.title:  -> New. Give another run_dir=" in error
    assert "remove run/first_stage, run/shown, run/evaluate, run/report to redo them" in error
    assert contents(finished_folder) == before


@pytest.mark.usefixtures("stages_here")
@pytest.mark.slow
def test_a_half_finished_stage_is_done_again_and_keeps_its_configuration(
    finished_folder: Path, capsys: pytest.CaptureFixture[str]
):
    ledger_file = finished_folder / "run/ledger.jsonl"
    ledger_file.write_text(
        "".join(f"{json.dumps(e)}\n" for name, e in entries(finished_folder).items() if name != "report")
    )
    (finished_folder / "run/report/index.html").write_text("cut sho")
    assert main(["run", *OVERRIDES, "stages.report.title=New"]) == 2
    assert "stages.report.title:  -> New" in capsys.readouterr().err
    assert main(["run", *OVERRIDES]) == 0
    assert list(entries(finished_folder)) == STAGES


@pytest.mark.process
def test_a_killed_run_goes_on_where_it_was(fresh_folder: Path):
    process = subprocess.Popen(COMMAND)
    path = fresh_folder / "run/ledger.jsonl"
    wait_until(lambda: path.is_file() and "first_stage" in path.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = entries(fresh_folder)["first_stage"]
    assert main(["run", *OVERRIDES]) == 0
    assert sorted(entries(fresh_folder)) == sorted(STAGES)
    assert entries(fresh_folder)["first_stage"] == first


@pytest.mark.process
@pytest.mark.parametrize(
    ("send", "signum", "status", "sentence"),
    [
        (os.kill, signal.SIGINT, 130, "interrupted; the same command goes on from here"),
        (os.killpg, signal.SIGINT, 130, "interrupted; the same command goes on from here"),
        (os.kill, signal.SIGTERM, 75, "stopped on request; the same command goes on from here (exit status 75)"),
        (os.killpg, signal.SIGUSR1, 75, "stopped on request; the same command goes on from here (exit status 75)"),
    ],
)
def test_an_interrupt_ends_the_stage_and_the_run(
    fresh_folder: Path, send: Callable[[int, int], None], signum: int, status: int, sentence: str
):
    process = subprocess.Popen(
        COMMAND, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until((fresh_folder / "run/first_stage/stage.json").is_file)
    send(process.pid, signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert sentence in error
    assert (fresh_folder / "run/.lock").read_text() == ""


@pytest.mark.usefixtures("stages_here")
@pytest.mark.slow
def test_a_stage_that_is_removed_is_redone_with_all_that_followed_from_it(finished_folder: Path):
    before = entries(finished_folder)
    shutil.rmtree(finished_folder / "run/evaluate")
    assert main(["run", *OVERRIDES]) == 0
    after = entries(finished_folder)
    assert [name for name in STAGES if after[name] != before[name]] == ["evaluate", "report"]
    # A trainer would find the old checkpoints and go on from them: old output does not stay in its place.
    assert (finished_folder / "run/superseded/report-1/stage.json").is_file()


def test_new_data_under_the_same_name_redo_what_was_made_from_the_old(finished_folder: Path):
    before = entries(finished_folder)
    with (finished_folder / "data.jsonl").open("a") as file:
        file.write(json.dumps(row(14)) + "\n")
    assert main(["rerank", *OVERRIDES, "stage=shown"]) == 0
    assert entries(finished_folder)["shown"] != before["shown"]
    # test queries 2, 5, 8, 11 and now 14, each with 4 candidates
    assert len((finished_folder / "run/shown/run.trec").read_text().splitlines()) == 5 * 4


@pytest.mark.usefixtures("stages_here")
def test_a_stage_that_fails_names_its_log(finished_folder: Path, caplog: pytest.LogCaptureFixture):
    shutil.rmtree(finished_folder / "run/evaluate")
    (finished_folder / "run/shown/run.trec").write_text("one two three\n")
    (finished_folder / "run/shown/outputs.json").unlink()  # else the file is found to be another one before
    assert main(["run", *OVERRIDES]) == 2
    assert "stage 'evaluate' failed with exit status 2; its log is run/evaluate/log.txt" in caplog.text
    assert "Traceback" in (finished_folder / "run/evaluate/log.txt").read_text()
    assert "evaluate" not in entries(finished_folder)


@pytest.mark.usefixtures("stages_here")
def test_a_file_that_has_changed_between_its_stage_and_the_one_that_reads_it_is_refused(
    finished_folder: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(finished_folder / "run/evaluate")
    path = finished_folder / "run/shown/run.trec"
    original = path.read_text()
    path.write_text(original.replace(" 1 ", " 2 ", 1))
    before = contents(finished_folder)
    assert main(["run", *OVERRIDES]) == 2
    error = capsys.readouterr().err
    assert "stage 'evaluate' reads what stage 'shown' left, which has changed since: run/shown/run.trec has" in error
    assert "Put the file back, or remove run/shown to redo that stage and all that follows from it" in error
    assert contents(finished_folder) == before
    path.write_text(original)  # with another time of modification
    assert main(["run", *OVERRIDES]) == 0


@pytest.mark.usefixtures("stages_here")
def test_a_run_folder_that_was_moved_is_continued(finished_folder: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    shutil.rmtree(finished_folder / "run/report")
    before = entries(finished_folder)
    shutil.copytree(finished_folder / "run", finished_folder / "elsewhere/moved")  # as to another disk
    shutil.rmtree(finished_folder / "run")
    assert main(["run", *OVERRIDES[:-1], "run_dir=elsewhere/moved"]) == 0
    skipped = [r.getMessage().split(":")[0] for r in caplog.records if r.getMessage().endswith(" s), skipped")]
    assert skipped == ["first_stage", "shown", "evaluate"]
    after = {entry["stage"]: entry for entry in read_jsonl(finished_folder / "elsewhere/moved/ledger.jsonl")}
    assert {name: after[name] for name in skipped} == {name: before[name] for name in skipped}


@pytest.mark.slow
def test_a_run_folder_has_one_conductor_at_a_time(fresh_folder: Path, capsys: pytest.CaptureFixture[str]):
    (fresh_folder / "run").mkdir()
    with (fresh_folder / "run/.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["run", *OVERRIDES]) == 2
    assert "another process (4711) is working in run;" in capsys.readouterr().err


@pytest.mark.slow
def test_a_single_stage_runs_in_this_process(fresh_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["rerank", *OVERRIDES]) == 2
    assert "the experiment has 2 rerank stages; give stage=NAME, one of: first_stage, shown" in capsys.readouterr().err
    assert main(["rerank", *OVERRIDES, "stage=shown"]) == 0
    assert list(entries(fresh_folder)) == ["shown"]
    assert main(["evaluate", *OVERRIDES]) == 2
    assert "first_stage" in capsys.readouterr().err
    assert list(entries(fresh_folder)) == ["shown"]
    assert main(["rerank", *OVERRIDES, "stage=shown", "stages.shown.seed=5"]) == 2
    assert "stages.shown.seed: 1 -> 5" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_shows_the_arithmetic_and_writes_nothing(fresh_folder: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["stages.format.max_steps=10", "stages.format.batch_size=16", "stages.format.micro_batch=4"]
    arguments += ["budget.pointwise_rows=60", "budget.listwise_rows=20", "budget.groupwise_rows=0"]
    arguments += ["budget.num_generations=8", "budget.prompts_per_step=6", "budget.grpo_steps=5"]
    arguments += ["stages.grpo.micro_batch=8"]
    arguments += ["run_dir=run", "model.path=nowhere", "data=jsonl", "data.path=data.jsonl"]
    assert main(["run", "experiment=quickstart_tokens", "dry_run=true", *arguments]) == 0
    shown = capsys.readouterr().out
    # 10 steps x 16 rows = 160 rows, over 60 + 20 + 0 = 80 synthesised ones twice; 16 / 4 = 4 micro-batches
    assert "10 steps x 16 rows = 160 rows (2.0 passes over 80)\n" in shown
    assert "1 process: 4 micro-batches of 4 rows a step\n" in shown
    # 6 x 8 = 48 completions a step, 5 x 48 = 240 in all; 48 / 8 = 6 micro-batches
    assert "5 steps; 6 prompts x 8 generations = 48 completions a step, 240 in all\n" in shown
    assert "1 process: 6 micro-batches of 8 completions a step, 1 whole group in each;" in shown
    assert "max_steps: 10" in shown
    assert not (fresh_folder / "run").exists()


def test_accelerate_launches_the_training_stages_alone():
    launcher = ["launcher=accelerate", "launcher.strategy=zero2", "launcher.num_processes=2", "launcher.args=[--debug]"]
    config = compose("run", ["experiment=quickstart_tokens", *launcher])
    assert isinstance(config, Config)
    assert runner.command(config, "sft", ["experiment=quickstart_tokens"])[1:] == [
        *("-m", "accelerate.commands.launch", "--config_file", str(conf_dir() / "accelerate/zero2.yaml")),
        *("--num_processes", "2", "--num_machines", "1", "--machine_rank", "0", "--main_process_port", "0", "--debug"),
        *("--no_python", "env", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", sys.executable),
        *("-m", "rl_rerank", "sft", "experiment=quickstart_tokens", "stage=sft"),
    ]
    assert runner.command(config, "evaluate", [])[1:] == ["-m", "rl_rerank", "evaluate", "stage=evaluate"]


def test_an_evaluation_reads_its_runs_and_those_that_stand_beside_every_number():
    config = compose(
        "run",
        [
            "experiment=quickstart_tokens",
            "stages.evaluate.runs=[sft_eval,grpo_eval]",
            "stages.evaluate.comparisons=[[both,sft_eval]]",
            "+stages.evaluate.seeds.both=[sft_eval,grpo_eval]",
        ],
    )
    assert isinstance(config, Config)
    Experiment.of(config)
    assert list(Experiment.of(config).stages["evaluate"].inputs) == [
        "first_stage",
        "untrained",
        "sft_eval",
        "grpo",
        "grpo_eval",
    ]


def test_a_reward_file_that_changes_is_another_configuration(tmp_path: Path):
    file = tmp_path / "mine.py"
    source = "def mine(example, rollout):\n    return 1.0\n"
    file.write_text(source)
    arguments = ["experiment=quickstart_tokens", f"reward=[{file}:mine]", f"run_dir={tmp_path / 'run'}"]
    config = compose("run", arguments)
    assert isinstance(config, Config)
    run_state.begin(Experiment.of(config), "grpo")
    run_state.refuse_changes(Experiment.of(config), ["grpo"])
    file.write_text(source.replace("1.0", "2.0"))
    with pytest.raises(ValueError, match=r"rewards\.mine\.file_sha256: \w+ -> \w+"):
        run_state.refuse_changes(Experiment.of(config), ["grpo"])
