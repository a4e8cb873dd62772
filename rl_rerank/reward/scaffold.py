"""A package with one reward, its tests and its entry point: `rl-rerank rewards new NAME`."""

import keyword
import re
from pathlib import Path

from rl_rerank import registry
from rl_rerank.io.files import write_text

NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{package_dashed}"
version = "0.1.0"
description = "The reward {name} for rl-rerank."
requires-python = ">=3.11"
dependencies = ["rl-rerank"]

# The name on the left is what 'reward=[{name}]' finds.
[project.entry-points."rl_rerank.reward"]
{name} = "{package}.{name}:{cls}"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""

MODULE = '''\
"""Whether the first document is relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rl_rerank.metrics import tied_groups
from rl_rerank.types import RankingExample, Rollout


@dataclass(frozen=True)
class {cls}:
    """Precision at rank 1, in [0, 1]; `malformed` if the completion is not well formed.

    Equal scores count as the mean over their orders.

    Paradigms: listwise, groupwise.
    """

    relevant: int = 1
    """The lowest grade of a relevant document."""
    malformed: float = 0.0

    paradigms: ClassVar[tuple[str, ...]] = ("listwise", "groupwise")

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        if not rollout.judgment.is_ok:
            return self.malformed
        first = tied_groups(rollout.judgment.scores)[0]
        return sum(example.qrels.get(docid, 0) >= self.relevant for docid in first) / len(first)
'''

TEST = """\
import pytest
from {package}.{name} import {cls}

from rl_rerank.reward.check import check
from rl_rerank.paradigms.groupwise import Groupwise
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import Term
from rl_rerank.types import Completion, Judgment, Prompt, RankingExample, Rollout, Status

EXAMPLE = RankingExample("q", "query", (), {{"a": 1, "b": 0}})


def rollout(scores, status=Status.ok):
    return Rollout(Prompt("q", ("a", "b"), ()), Completion(""), Judgment(status, scores))


@pytest.mark.parametrize(
    ("scores", "value"),
    [({{"a": 2.0, "b": 1.0}}, 1.0), ({{"a": 1.0, "b": 2.0}}, 0.0), ({{"a": 1.0, "b": 1.0}}, 0.5)],
)
def test_{name}_by_hand(scores, value):
    assert {cls}()(EXAMPLE, rollout(scores)) == value
    assert {cls}(malformed=-1.0)(EXAMPLE, rollout({{}}, Status.answer)) == -1.0


@pytest.mark.parametrize("paradigm", [Listwise(reasoning=True), Groupwise(reasoning=True)])
def test_{name}_pays_what_it_should(paradigm):
    report = check(Term("{name}", {cls}()), paradigm, queries=2, shuffles=50)
    assert report.failures == {{}}
"""

README = """\
# {package_dashed}

The reward `{name}` for rl-rerank.

    pip install -e .
    pytest
    rl-rerank rewards check {name}
    rl-rerank run experiment=quickstart 'reward=[{name}]'
"""


def new(name: str, folder: Path) -> list[Path]:
    """Write the package into `folder`/`name`_reward.

    Returns:
        The files.

    Raises:
        ValueError: if the name is not snake_case, belongs to an installed reward, or the folder exists.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a reward's name is in snake_case, such as first_relevant; got {name!r}")
    if keyword.iskeyword(name):
        raise ValueError(f"{name!r} is a word of Python, so a module cannot be called so; choose another name")
    if name in registry.names("reward"):
        raise ValueError(f"a reward {name!r} is installed already; choose another name")
    package = f"{name}_reward"
    root = folder / package
    if root.exists():
        raise ValueError(f"{root} is there already; it was left alone")
    names = {
        "name": name,
        "cls": "".join(part.capitalize() for part in name.split("_")),
        "package": package,
        "package_dashed": package.replace("_", "-"),
    }
    files = {
        root / "pyproject.toml": PYPROJECT,
        root / "README.md": README,
        root / package / "__init__.py": '"""The reward {name}."""\n',
        root / package / f"{name}.py": MODULE,
        root / "tests" / f"test_{name}.py": TEST,
    }
    for path, text in files.items():
        write_text(path, text.format(**names))
    return list(files)
