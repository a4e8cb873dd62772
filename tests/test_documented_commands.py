"""Every command that the documentation tells a user to type, in the folder of somebody who has run the demo.

Commands with an experiment are planned, and `soak` makes their whole dry runs; the others run for real. Those that read
a finished run are in test_quickstart.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.documented_commands import ROOT, Documented, commands
from support.documented_folder import READ_A_RUN, substituted, write_files

from rl_rerank import registry, requirements
from rl_rerank.cli import serve
from rl_rerank.cli.main import main
from rl_rerank.config import Config
from rl_rerank.experiment import run_state
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment

ALL = list({found.words: found for found in commands()}.values())
OURS = [found for found in ALL if found.words[0] == "rl-rerank"]
PLANNED = [found for found in OURS if any(re.match(r"(experiment|recipe)=", word) for word in found.words)]
OTHERS = [found for found in OURS if found not in PLANNED and found.words[1] not in READ_A_RUN]
BESIDE = [found for found in ALL if found.words[0] != "rl-rerank"]
PLUGIN = "first_relevant_reward"
INSTALL = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]


def shown(found: Documented) -> str:
    return f"{found.place} {found.text}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's files, and the demo at budget=smoke recorded as done, as a plan compares it."""
    folder = tmp_path_factory.mktemp("documented")
    write_files(folder)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        assert main(["init"]) == 0
        demo = planned(["rl-rerank", "run", "experiment=quickstart", "budget=smoke"])
        for name in demo.stages:
            run_state.begin(demo, name)
            run_state.finish(demo, name, 1.0)
    return folder


@pytest.fixture(scope="module")
def plugins(folder: Path) -> Path:
    """The reward that docs/rewards.md begins, installed beside."""
    pytest.importorskip("hatchling", reason="the dev extra has it")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        assert main(["new", "reward", "first_relevant"]) == 0
        subprocess.run([*INSTALL, "--target", str(folder / "installed"), str(folder / PLUGIN)], check=True)
    return folder / "installed"


@pytest.fixture
def user(folder: Path, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(plugins))
    return monkeypatch


def planned(words: list[str]) -> Experiment:
    command = "run" if words[1] == "plan" else words[1]
    config = compose(command, [word for word in words[2:] if not word.startswith("hardware=")])
    assert isinstance(config, Config)
    return Experiment.of(config)


def as_after_the_demo(found: Documented) -> list[str]:
    """A command on the demo with its budget, so that it is about the same run."""
    words = substituted(found.words)
    is_demo = "experiment=quickstart" in words and not any("budget=" in word or "@" in word for word in words)
    return [*words, "budget=smoke"] if is_demo else words


def test_the_documentation_has_commands_of_every_kind():
    assert len(commands()) > 200 and len(PLANNED) > 90 and len(OTHERS) > 10 and len(BESIDE) > 30
    assert {found.words[1] for found in OURS} >= {"run", "rewards", "evaluate", "report", "convert", "parse", "serve"}


@pytest.mark.parametrize("found", PLANNED, ids=shown)
def test_a_command_with_an_experiment_is_planned_and_not_refused(found, user, plugins):
    words = as_after_the_demo(found)
    experiment = planned(words)
    if words[1] in registry.names("stage"):
        stages = [name for name, stage in experiment.config.stages.items() if stage.kind == words[1]]
        assert experiment.config.stage in stages if experiment.config.stage else len(stages) == 1
    assert len(experiment.describe(list(experiment.stages))) >= len(experiment.stages)
    run_state.refuse_changes(experiment, experiment.stages)


@pytest.mark.soak
@pytest.mark.parametrize("found", [found for found in PLANNED if found.words[1] != "plan"], ids=shown)
def test_the_dry_run_of_a_command_ends_well(found, user, plugins):
    words = [word for word in as_after_the_demo(found) if not word.startswith(("push=", "hub."))]
    assert main([*words[1:], "dry_run=true"]) == 0


@pytest.mark.parametrize("found", OTHERS, ids=shown)
def test_a_command_without_an_experiment_runs(found, user, plugins, folder, tiny_model_dir, capsys):
    words = substituted(found.words)
    if words[1] == "data":
        words.append(f"model.path={tiny_model_dir}")  # whose tokenizer is read in a moment
    if words[1] == "serve":
        serve.settings(words[2:])
    elif words[1] == "new":
        assert (folder / "first_relevant_reward").is_dir()  # the fixture's
    elif words[1] == "plan":  # of whatever experiment
        planned(["rl-rerank", "run", "experiment=quickstart"])
    elif words[1] != "doctor":  # which has tests of its own and imports everything
        assert main(words[1:]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("found", BESIDE, ids=shown)
def test_other_commands_name_what_exists(found, user, folder):
    words = [word for word in substituted(found.words) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    program, *arguments = words
    if program == "make":
        assert re.search(rf"(?m)^{arguments[0]}:", (ROOT / "Makefile").read_text())
    elif program == "pip":
        for name in [a for a in arguments[1:] if not a.startswith("-")]:
            assert is_installable(name, folder), name
    elif program in ("python", "pytest", "sbatch", "source") or program.startswith("launch/"):
        files = [program, *arguments] if "/" in program else arguments
        file = next(a for a in files if not a.startswith("-") and "=" not in a)
        assert (folder / file).exists() or file == ".venv/bin/activate", file
        source = (folder / file).read_text() if file.endswith(".py") else ""
        assert all(f'"{a}"' in source for a in arguments if a.startswith("--") and source)
    else:
        assert program == "vllm" and arguments[0] == "serve"
        module, _, attribute = arguments[-1].partition(":")
        assert (
            importlib.util.find_spec(module) and attribute in Path(importlib.util.find_spec(module).origin).read_text()
        )


def is_installable(name: str, folder: Path) -> bool:
    """A folder with a package, ours with extras that it has, or a package that something of ours names."""
    path, _, extras = name.rstrip("]").partition("[")
    if path in (".", "rl-rerank"):  # the name alone is on no index: it adds extras to what is installed
        known, asked = set(requirements.extras().values()), set(filter(None, extras.split(",")))
        return asked <= known and (path == "." or bool(asked))
    if "/" in name or (folder / name).is_dir():
        return (folder / name / "pyproject.toml").is_file()
    return any(name in (ROOT / file).read_text() for file in ("Makefile", "docs/serving.md", "docs/evaluation.md"))


def test_launch_scripts_find_the_command_without_an_active_environment(folder, tmp_path):
    """As in a checkout after `make install`: .venv beside launch/, and nothing of it on PATH."""
    for name in ("launch", ".venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    for script in (ROOT / "launch").glob("*.sh"):
        (tmp_path / "launch" / script.name).write_bytes(script.read_bytes())
    for program in ("rl-rerank", "vllm"):
        (tmp_path / ".venv/bin" / program).write_text('#!/bin/sh\necho "$0 $*"\n')
        (tmp_path / ".venv/bin" / program).chmod(0o755)
    multi = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1", "GPUS_PER_NODE": "2"}
    for script in (tmp_path / "launch").glob("*.sh"):
        environment = {"PATH": os.defpath, "CUDA_VISIBLE_DEVICES": "0", **multi}
        done = subprocess.run(["bash", script, "x=y"], env=environment, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert re.match(r"\S*\.venv/bin/(rl-rerank run|vllm serve) .*x=y", done.stdout)
