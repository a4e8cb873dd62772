"""The marks beside the values of a recipe's file: each is explained in its header."""

import re

import pytest

from rl_rerank.io.files import conf_dir

FILES = [path for path in sorted((conf_dir() / "experiment").glob("*.yaml")) if "[ours]" in path.read_text()]
MARK = re.compile(r"#[^#\n]*?\[([a-z][a-z0-9]*)\]")


def test_the_recipes_of_systems_name_their_sources():
    assert {"prp", "first", "fullrank", "ranklist", "curricula", "multistage", "losses", "rankify", "screening"} <= {
        path.stem for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_mark_is_explained_in_the_header(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    length = next(n for n, line in enumerate(lines) if not line.startswith("#"))
    header, body = "\n".join(lines[:length]), "\n".join(lines[length:])
    used = set(MARK.findall(body))
    assert used and used <= set(re.findall(r"\[([a-z][a-z0-9]*)\]", header))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_value_is_from_memory(path):
    assert "[memory]" not in path.read_text(encoding="utf-8")
