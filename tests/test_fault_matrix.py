"""docs/reliability.md: every row of the table of faults names a test of its own, which exists."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/reliability.md"
HEADER = "| fault | status | what is left, and the sentence | test |"
STATUSES = {"0", "1", "2", "75", "137", ""}
"""Ends of commands, as a shell gives them; 137 is SIGKILL's. Empty: no command ends."""


def rows() -> list[list[str]]:
    lines = PAGE.read_text().splitlines()
    first = lines.index(HEADER) + 2
    table = lines[first : next(i for i in range(first, len(lines) + 1) if i == len(lines) or not lines[i])]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_there_are_many_rows_and_each_has_a_test_of_its_own():
    found = rows()
    assert len(found) >= 25
    assert [row for row in found if len(row) != 4 or row[1] not in STATUSES] == []
    tests = [row[3] for row in found]
    assert sorted(tests) == sorted(set(tests))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_test_of_a_row_exists(row):
    match = re.fullmatch(r"`([\w/]+\.py)::(\w+)(?:\[(.+)\])?`", row[3])
    assert match is not None, row[3]
    source = (TESTS / match[1]).read_text()
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert match[2] in functions
    if match[3] is not None:
        marks = [ast.unparse(mark) for mark in functions[match[2]].decorator_list]
        assert any("parametrize" in mark for mark in marks)
        # Where the values stand: in the file, or in the helper that it imports.
        helpers = re.findall(r"^from support\.(\w+) import", source, re.MULTILINE)
        texts = [source, *((TESTS / f"support/{name}.py").read_text() for name in helpers)]
        assert any(f'"{match[3]}"' in text for text in texts), match[3]
