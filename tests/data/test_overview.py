"""What the data hold: counts by hand, and a sentence for everything that is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_rerank.cli.main import main
from rl_rerank.config import DataConfig
from rl_rerank.data import Store, prepare
from rl_rerank.data.overview import doubts, overview, table


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(qid: str, split: str, qrels: dict[str, int], docids: str = "abc", **more: object) -> dict[str, object]:
    candidates = [{"docid": docid, "text": f"text {docid}"} for docid in docids]
    return {"qid": qid, "query": f"query {qid}", "split": split, "candidates": candidates, "qrels": qrels, **more}


def stored(tmp_path: Path, rows: list[dict[str, object]], **settings: object) -> Store:
    path = jsonl(tmp_path / "rows.jsonl", rows)
    return prepare(DataConfig(source="jsonl", path=str(path), **settings), tmp_path / "data")  # type: ignore[arg-type]


def beir(folder: Path, judged: dict[str, list[tuple[str, str, int]]]) -> Path:
    jsonl(folder / "corpus.jsonl", [{"_id": d, "title": "", "text": f"ice {d}"} for d in "abc"])
    jsonl(folder / "queries.jsonl", [{"_id": q, "text": "ice"} for q in ("q1", "q2")])
    (folder / "qrels").mkdir()
    for name, rows in judged.items():
        lines = "".join(f"{qid}\t{docid}\t{grade}\n" for qid, docid, grade in rows)
        (folder / "qrels" / name).write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


def test_a_split_is_counted_as_by_hand(tmp_path):
    rows = [
        row("q1", "test", {"a": 2, "b": 0}),  # usable, everything relevant is a candidate: recall 1, oracle 1
        row("q2", "test", {"z": 1}),  # its relevant document is no candidate: recall 0, oracle 0
        row("q3", "test", {"a": 0, "b": 0, "c": 0}),  # judged, nothing relevant: not in recall
        row("q4", "test", {"a": 1}, docids=""),  # no candidate: 0 in recall and oracle
    ]
    [found] = overview(stored(tmp_path, rows))
    assert (found.split, found.queries, found.usable, found.unanswered, found.candidates) == ("test", 3, 1, 1, 3.0)
    assert found.recall == found.oracle == pytest.approx((1 + 0 + 0) / 3)
    assert found.grades == {"0": 4, "2": 1, "unjudged": 4}
    head, line = table([found])
    assert line.split()[:5] == ["test", "3", "1", "1", "3.0"] and head.startswith("split")
    assert "67% of a query's relevant documents are no candidates" in doubts([found])[0]


def test_what_is_lost_is_said(tmp_path):
    rows = [
        row("q1", "train", {}, qrel={"a": 1}),
        {**row("q2", "train", {"z": 1}), "candidates": [{"docid": "a", "text": "text a", "grade": 1}]},
    ]
    store = stored(tmp_path, rows)
    said = "\n".join(store.warnings)
    assert "keys of rows not read; did you mean 'qrels'?: 1 (first: 'qrel', " in said
    assert "keys of candidates not read; judgments belong in qrels: 1 (first: 'grade', " in said
    assert "relevant documents that the collection lacks: 1 (first: 'z', qid 'q2')" in said
    assert "none of its 2 queries differ in grade" in doubts(overview(store))[0]


def test_a_split_without_a_usable_query_says_why(tmp_path):
    store = stored(tmp_path, [row("q1", "train", {"a": 0}), row("q2", "test", {"a": 1})], train_queries=5)
    with pytest.raises(LookupError) as caught:
        store.size("train")
    assert "none of the 1 queries of split 'train' can be used" in str(caught.value)
    assert "queries passed over, because no document is judged relevant: 1 (first: train, qid 'q1')" in str(
        caught.value
    )


def test_beir_judgments_are_read_by_any_of_their_names_or_named(tmp_path):
    judged = {"train.tsv": [("q1", "a", 1)], "valid.tsv": [("q2", "b", 1), ("q9", "c", 1)], "extra.tsv": []}
    folder = beir(tmp_path / "mine", judged)
    store = prepare(DataConfig(source="beir", path=str(folder)), tmp_path / "data")
    assert (store.size("train"), store.size("dev")) == (1, 1)
    assert "judged queries left out, because no query has their qid: 1 (first: qid 'q9')" in store.warnings
    assert any("files of qrels not read" in said and "'extra.tsv'" in said for said in store.warnings)
    (folder / "qrels/dev.tsv").write_text("")
    with pytest.raises(ValueError, match=r"has dev.tsv and valid.tsv, which are all the split dev"):
        prepare(DataConfig(source="beir", path=str(folder)), tmp_path / "other")


def test_rows_of_positives_and_negatives_are_sent_to_their_source(tmp_path):
    path = jsonl(tmp_path / "pairs.jsonl", [{"query": "x", "pos": ["a"], "neg": ["b"]}])
    with pytest.raises(
        ValueError, match=r"pairs.jsonl:1: rows of query, pos and neg are read by data=hf_flagembedding"
    ):
        prepare(DataConfig(source="jsonl", path=str(path)), tmp_path / "data")


def test_the_command_shows_splits_losses_and_lengths(tmp_path, monkeypatch, capsys, tiny_model_dir):
    monkeypatch.chdir(tmp_path)
    rows = [row("q1", "train", {"a": 1, "b": 0}), row("q2", "test", {"a": 1, "z": 1})]
    jsonl(tmp_path / "mine.jsonl", rows)
    settings = ["data=jsonl", "data.path=mine.jsonl", f"model.path={tiny_model_dir}", "model.max_passage_tokens=1"]
    assert main(["data", *settings]) == 0
    shown = capsys.readouterr().out
    assert "train  1        1" in shown and "test   1        1" in shown
    assert "relevant documents that the collection lacks: 1" in shown
    assert "model.max_passage_tokens=1 cuts 100% of them" in shown
    assert not (tmp_path / "runs").exists()
