"""The command line: help, exit codes, and errors as sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_rerank import __version__, registry
from rl_rerank.cli.main import main
from rl_rerank.cli.usage import HELP
from rl_rerank.experiment.compose import compose

COMMANDS = [
    "run",
    "plan",
    "data",
    *registry.names("stage"),
    "parse",
    "convert",
    "rewards",
    "new",
    "verify",
    "serve",
    "init",
    "doctor",
]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "a.run").write_text("q1 Q0 a 1 2.0 x\nq1 Q0 b 2 1.0 x\nq2 Q0 c 1 1.0 x\n")
    (tmp_path / "a.qrels").write_text("q1 0 b 1\nq2 0 c 1\n")
    return [f"run={tmp_path / 'a.run'}", f"qrels={tmp_path / 'a.qrels'}"]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    assert "quickstart" in shown


def test_every_help_file_belongs_to_a_command():
    assert {file.stem for file in HELP.glob("*.txt")} - {"usage"} < set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: rl-rerank {command}")
    assert len(shown.splitlines()) >= 3


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rl-rerank {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["evalute"], "there is no command 'evalute'. Did you mean 'evaluate'?"),
        (["run"], "run: there are no stages; give experiment=NAME, one of: baidu, bias, curricula, distill, encoder"),
        (["evaluate"], "give run=FILE qrels=FILE, or experiment=NAME"),
        (["run", "experiment=quickstart_tokens", "stages.sft.lr=1"], "there is no setting 'stages.sft.lr'"),
        (["run", "experiment=quickstart_tokens", "reward=[ndgc]"], "no reward is named 'ndgc'"),
        (
            ["run", "experiment=quickstart_tokens", "budget.num_generations=8", "stages.grpo.micro_batch=12"],
            "micro_batch=12 is not a multiple of num_generations=8, so a group would be split",
        ),
        (["sft", "experiment=quickstart_tokens", "stage=grpo"], "stage=grpo is no sft stage; there are: sft, format"),
        (["evaluate", "run=nowhere.run", "qrels=nowhere.qrels"], "nowhere.run"),
        (["run", "--config-dir"], "--config-dir needs a folder"),
        (["run", "--config-dir=nowhere"], "--config-dir: there is no folder"),
        (["rewards", "lst"], "rewards has no subcommand 'lst'"),
        (["doctor", "modl=x"], "doctor takes model=DIR"),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_2(
    arguments: list[str], fragment: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert fragment in shown.err
    assert shown.err.startswith("rl-rerank: ")
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_the_traceback_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RL_RERANK_TRACEBACK", "1")
    with pytest.raises(LookupError, match="evalute"):
        main(["evalute"])


def test_one_run_file_is_measured_as_json(files: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", *files, "measures=[RR, P@1]"]) == 0
    # RR: q1 has its relevant document at rank 2, q2 at rank 1: (1/2 + 1) / 2 = 0.75; P@1: (0 + 1) / 2 = 0.5
    assert json.loads(capsys.readouterr().out)["mean"] == {"RR": 0.75, "P@1": 0.5}


def test_with_an_output_file_only_the_means_are_printed(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", *files, "measures=[RR,P(rel=1)@1]", f"output={tmp_path / 'out.json'}"]) == 0
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == ["0.7500", "0.5000"]
    assert json.loads((tmp_path / "out.json").read_text())["per_query"]["q1"]["RR"] == 0.5


def test_a_dry_run_of_one_stage_shows_that_stage(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    texts = [{"docid": docid, "text": docid} for docid in "ab"]
    row = {"qid": "q", "query": "which?", "candidates": texts, "qrels": {"a": 1}, "split": "train"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    data = ["data=jsonl", f"data.path={tmp_path / 'data.jsonl'}"]
    data += [f"model.path={tiny_model_dir}", "model.max_prompt_tokens=100"]
    assert main(["sft", "experiment=quickstart_tokens", "stage=sft", *data, "dry_run=true"]) == 0
    planned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ") and line[2] != " "]
    # the plan, the memory of the stage with its verdict, the lengths of its prompts, and what its passages need
    assert [line.split()[1] for line in planned] == ["The", "sft", "sft:", "sft", "sft:", "sft:"]


def test_init_copies_an_experiment_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    config = compose("run", ["experiment=my_experiment"])
    assert getattr(config, "run_dir") == "runs/my_experiment"  # noqa: B009
    (tmp_path / "conf/experiment/my_experiment.yaml").write_text("mine\n")
    assert main(["init"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "conf/experiment/my_experiment.yaml").read_text() == "mine\n"


def test_a_step_that_would_split_a_query_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]):
    arguments = ["experiment=quickstart_tokens", "stage=grpo", "model.path=nowhere", "dry_run=true"]
    step = ["reward=[pooled_reciprocal_rank]", "stages.grpo.prompts_per_step=7"]
    assert main(["grpo", *arguments, *step]) == 2
    # pointwise asks about one relevant document and one that is not
    assert (
        "prompts_per_step=7 = 3 x 2 + 1 would split a query; use a multiple of 2, such as 8" in capsys.readouterr().err
    )


def test_an_experiment_whose_file_lacks_its_first_line_is_told_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/t1.yaml").write_text("stages: {first: {kind: rerank, model: first_stage}}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "experiment=t1"]) == 2
    assert "experiment=t1 has no stages; does its file begin with `# @package _global_`?" in capsys.readouterr().err
