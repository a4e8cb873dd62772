"""`rl-rerank new`: a package for each kind of plugin, which installs, passes its own tests, and is found by name."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rl_rerank import registry
from rl_rerank.cli import new
from rl_rerank.cli.main import main
from rl_rerank.cli.usage import HELP
from rl_rerank.config import Config
from rl_rerank.experiment.compose import compose
from rl_rerank.experiment.experiment import Experiment

NAMES = {kind: f"{kind}_of_mine" for kind in new.USES}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of each kind."""
    folder = tmp_path_factory.mktemp("new")
    for kind, name in NAMES.items():
        new.new(kind, name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(packages: Path) -> Path:
    """A folder that all of them are installed into."""
    pytest.importorskip("hatchling", reason="the dev extra has it")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    target = packages / "site"
    folders = [str(packages / f"{name}_{kind}") for kind, name in NAMES.items()]
    subprocess.run([*install, "--target", str(target), *folders], check=True, capture_output=True)
    return target


@pytest.fixture
def on_the_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(installed)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0].endswith(tuple(f"_of_mine_{kind}" for kind in NAMES)):
            del sys.modules[name]


@pytest.mark.process
def test_every_package_passes_its_own_tests_and_is_formatted_as_ours(packages: Path, installed: Path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    tests = [str(packages / f"{name}_{kind}/tests") for kind, name in NAMES.items()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=packages, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "24 passed" in done.stdout
    ruff = [sys.executable, "-m", "ruff", "--config", str(Path(__file__).parents[2] / "pyproject.toml")]
    formatted = subprocess.run(
        [*ruff[:3], "format", "--check", *ruff[3:], *tests], cwd=packages, capture_output=True, text=True
    )
    assert formatted.returncode == 0, formatted.stdout


@pytest.mark.process
@pytest.mark.usefixtures("on_the_path")
@pytest.mark.parametrize("kind", NAMES)
def test_the_command_of_its_readme_is_a_valid_one(kind: str, packages: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(packages)
    readme = (packages / f"{NAMES[kind]}_{kind}/README.md").read_text()
    [line] = [line for line in readme.splitlines() if line.startswith("    rl-rerank")]
    _, command, *settings = shlex.split(line)
    assert registry.find(kind, NAMES[kind]).__module__.startswith(f"{NAMES[kind]}_{kind}.")
    if command == "rewards":
        assert main([command, *settings]) == 0
        return
    Path("pairs.tsv").write_text("salt\tSalt melts ice.\t1\nsalt\tIce is cold.\t0\n")
    config = compose(command, settings)
    assert isinstance(config, Config) and config.dry_run
    Experiment.of(config)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "new takes a kind of plugin and a name"),
        (["rewards", "mine"], "The kinds: reward, paradigm, source, step, loss, check, stage, engine"),
        (["reward"], "got 'reward'"),
        (["reward", "First-Relevant"], "a reward's name is in snake_case, such as my_reward; got 'First-Relevant'"),
        (["loss", "softmax"], "a loss 'softmax' is installed already; choose another name"),
        (["step", "class"], "'class' is a word of Python"),
        (["engine", "taken"], "taken_engine is there already; it was left alone"),
    ],
)
def test_what_cannot_be_begun_is_refused(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken_engine").mkdir()
    assert main(["new", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "taken_engine"]


def test_the_help_names_every_kind():
    text = (HELP / "new.txt").read_text()
    assert [kind for kind in new.USES if f"\n  {kind} " not in text] == []
    assert new.USES.keys() == set(registry.KINDS) - {"first_stage"}
