"""The folders are the architecture: at most four loose modules, every folder in a layer, files and functions small."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rl_rerank"
SOURCES = [path for base in ("rl_rerank", "rewards", "data_synth", "checks") for path in (ROOT / base).rglob("*.py")]


def layers():
    [contract] = [c for c in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
                  if c["name"] == "layers"]  # fmt: skip
    return contract, {name.strip() for line in contract["layers"] for name in line.split("|")}


def test_every_module_of_the_package_stands_in_a_layer():
    contract, named = layers()
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__", *contract["exhaustive_ignores"]} == named
    assert contract["exhaustive"]


def test_at_most_four_modules_are_loose():
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 4


def test_the_documentation_draws_the_same_layers():
    page = (ROOT / "docs/architecture.md").read_text()
    _, named = layers()
    assert [name for name in sorted(named) if f"{name}/" not in page and name not in page] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path):
    source = path.read_text()
    assert source.count("\n") < 350
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, node.name


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone, and only some of them where two are the same."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in set(names) if names.count(name) > 1] == []
