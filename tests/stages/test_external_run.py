"""A run file of another system as a row of an experiment."""

import json
from pathlib import Path

import pytest

from rl_rerank.cli.main import main

EXPERIMENT = """\
# @package _global_
stages:
  first_stage: {kind: rerank, model: first_stage}
  published: {kind: rerank, run: published.trec, label: Published}
  evaluate: {kind: evaluate, measures: [RR], comparisons: [[published, first_stage]]}
"""
COMMAND = ["experiment=external", "data=jsonl", "data.path=data.jsonl", "run_dir=run"]


def row(q: int) -> dict:
    candidates = [{"docid": f"{q}{letter}", "text": f"text {letter}"} for letter in "abc"]
    return {"qid": f"q{q}", "query": "ice", "candidates": candidates, "qrels": {f"{q}c": 1}, "split": "test"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/external.yaml").write_text(EXPERIMENT)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row(q)) + "\n" for q in range(4)))
    write(tmp_path, "cab")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, order: str, queries: range = range(3)) -> None:
    """Rank the documents of each query in this order, and a query that the data lack."""
    rows = [f"q{q} Q0 {q}{d} {r} {9 - r} x\n" for q in (*queries, 9) for r, d in enumerate(order)]
    (folder / "published.trec").write_text("".join(rows))


def run(stage: str, *more: str) -> int:
    kind = "evaluate" if stage == "evaluate" else "rerank"
    return main([kind, *COMMAND, f"stage={stage}", *more])


def test_it_is_measured_and_tested_beside_the_others(folder, caplog):
    assert [run(stage) for stage in ("first_stage", "published", "evaluate")] == [0, 0, 0]
    metrics = json.loads((folder / "run/evaluate/metrics.json").read_text())
    found = {row["run"]: row["mean"]["RR"] for row in metrics["rows"]}
    # The relevant document is first in three queries, and the fourth is missing; the first stage has it third.
    assert found == {"published": 3 / 4, "first_stage": pytest.approx(1 / 3)}
    [test] = metrics["comparisons"]
    assert test["difference"] == pytest.approx(3 / 4 - 1 / 3)
    assert "stages.published.run: published.trec lacks 1 of 4 queries, which count 0" in caplog.text
    assert "| Published |" in (folder / "run/evaluate/table.md").read_text()


def test_documents_of_another_first_stage_are_another_protocol(folder, capsys):
    write(folder, "cx", range(4))
    assert [run("first_stage"), run("published"), run("evaluate")] == [0, 0, 2]
    assert "published and first_stage were made under different protocols: first stage" in capsys.readouterr().err


def test_a_file_that_changes_is_refused_and_one_that_moves_is_not(folder, capsys):
    assert run("published") == 0
    (folder / "published.trec").rename(folder / "moved.trec")
    assert run("published", "stages.published.run=moved.trec") == 0
    write(folder, "abc")
    assert run("published") == 2
    assert "stages.published.run_sha256: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.published.run=nowhere.trec", "stages.published.run='nowhere.trec': there is no such file"),
        ("stages.published.run=other.trec", "ranks none of the 4 queries, such as 'q0'; it has 'x1'"),
        ("stages.published.run=broken.trec", "broken.trec:1: expected 'qid Q0 docid rank score tag'"),
        ("stages.published.model=first_stage", "run=published.trec is ranked already"),
        ("stages.evaluate.comparisons=[[published,published]]", "nothing is tested against itself"),
    ],
)
def test_what_cannot_be_a_row_is_refused(folder, capsys, override, says):
    (folder / "other.trec").write_text("x1 Q0 a 1 1.0 x\n")
    (folder / "broken.trec").write_text("q0 Q0 0a 1.0\n")
    assert run("published", override) == 2
    assert says in capsys.readouterr().err
