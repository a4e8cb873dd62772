"""Several collections as one: ids, splits, groups, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl_rerank.config import DataConfig
from rl_rerank.data import prepare, splits
from rl_rerank.data.records import Omissions
from rl_rerank.data.sources.collection import CollectionFolder
from rl_rerank.data.sources.union import UnionOfCollections


def write(folder: Path, queries: dict[str, str], *, with_run: bool = True) -> None:
    """A collection with one relevant document for each query; every query has all documents as candidates."""
    folder.mkdir(parents=True)
    documents = [{"docid": f"d{qid}", "title": "", "text": f"{folder.name} about {qid}"} for qid in queries]
    rows = [{"qid": qid, "text": f"what is {qid}", **({"split": s} if s else {})} for qid, s in queries.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text("".join(f"{qid}\t0\td{qid}\t1\n" for qid in queries))
    lines = (f"{q} Q0 d{d} {n} {9 - n} bm25\n" for q in queries for n, d in enumerate(queries, start=1))
    if with_run:
        (folder / "run.bm25.trec").write_text("".join(lines))


def config(path: Path, parts: dict[str, Any], **more: Any) -> DataConfig:
    return DataConfig(source="union", path=str(path), params={"parts": parts}, **more)


def test_parts_with_equal_ids_stay_apart(tmp_path: Path):
    write(tmp_path / "one", {"1": "train", "2": "dev", "3": "test"})
    write(tmp_path / "two", {"1": "train", "2": "dev", "3": "test"})
    store = prepare(config(tmp_path, {"a": {"path": "one"}, "b": {"path": "two"}}), tmp_path / "store")
    assert [e.qid for e in store.examples("test")] == ["a:3", "b:3"]
    for name, example in zip(("one", "two"), store.examples("test"), strict=True):
        assert {c.docid: c.text for c in example.candidates} == {
            f"{example.group}:d{qid}": f"{name} about {qid}" for qid in "123"
        }
        assert example.qrels == {f"{example.group}:d3": 1}
    assert store.groups("test") == {"a:3": "a", "b:3": "b"}


def test_only_the_splits_that_are_named_are_used(tmp_path: Path):
    write(tmp_path / "one", {"1": "train", "2": "dev", "3": "test"})
    write(tmp_path / "two", {"1": "train", "2": "dev", "3": "test"})
    parts = {"a": {"path": "one", "splits": ["train"]}, "b": {"path": "two", "splits": ["dev", "test"]}}
    queries = UnionOfCollections(parts=parts, path=str(tmp_path)).read().queries
    assert {query.qid: query.split for query in queries} == {"a:1": "train", "b:2": "dev", "b:3": "test"}


def test_a_part_without_dev_gives_the_queries_that_it_would_give_alone(tmp_path: Path):
    write(tmp_path / "one", {str(n): "train" for n in range(60)} | {"t": "test"})
    write(tmp_path / "two", {"1": "train", "2": "dev"})
    parts = {"a": {"path": "one"}, "b": {"path": "two"}}
    queries = UnionOfCollections(parts=parts, path=str(tmp_path)).read().queries
    alone = splits.assign(CollectionFolder(str(tmp_path / "one")).read().queries, 1, Omissions())
    found = {query.qid for query in queries if query.split == "dev"}
    assert len(alone["dev"]) > 1
    assert found == {f"a:{query.qid}" for query in alone["dev"]} | {"b:2"}


def test_a_part_has_a_source_and_parameters_of_its_own(tmp_path: Path):
    write(tmp_path / "one", {"1": "", "2": ""})
    row = {"qid": "1", "query": "what", "candidates": [{"docid": "x", "text": "y"}], "qrels": {"x": 2}, "split": "dev"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    parts = {
        "a": {"path": "one", "params": {"split": "test", "run": "bm25"}},
        "b": {"source": "jsonl", "path": "rows.jsonl"},
    }
    read = UnionOfCollections(parts=parts, path=str(tmp_path)).read()
    assert [(query.qid, query.split) for query in read.queries] == [("a:1", "test"), ("a:2", "test"), ("b:1", "dev")]
    assert read.qrels["b:1"] == {"b:x": 2} and read.documents["b:x"].text == "y"
    assert read.runs is not None and [docid for docid, _ in read.runs["b:1"]] == ["b:x"]
    assert len(read.documents) == len(list(read.documents)) == 3


def test_a_changed_part_is_another_state(tmp_path: Path):
    write(tmp_path / "one", {"1": "train"})
    union = UnionOfCollections(parts={"a": {"path": "one"}}, path=str(tmp_path))
    before = union.state()
    assert before == UnionOfCollections(parts={"a": {"path": "one"}}, path=str(tmp_path)).state()
    (tmp_path / "one/qrels.tsv").write_text("1\t0\td1\t2\n")
    assert union.state() != before
    assert UnionOfCollections(parts={"b": {"path": "one"}}, path=str(tmp_path)).state() != union.state()


@pytest.mark.parametrize(
    ("parts", "kind", "says"),
    [
        ({}, ValueError, "must name at least one collection"),
        ({"a:b": {"path": "one"}}, ValueError, "one word without a colon; got 'a:b'"),
        ({"a": {"pth": "one"}}, ValueError, r"data\.params\.parts\.a\.pth"),
        ({"a": {"path": "one", "splits": ["tset"]}}, ValueError, "must be among train, dev, test; got 'tset'"),
        ({"a": {"path": "one", "source": "colection"}}, LookupError, r"parts\.a: no source is named 'colection'"),
        ({"a": {"path": "nowhere"}}, FileNotFoundError, "there is no folder"),
        ({"a": {"path": "one"}, "b": {"path": "bare"}}, ValueError, r"parts\.b brings no candidates"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, parts: dict[str, Any], kind: type[Exception], says: str):
    write(tmp_path / "one", {"1": "train"})
    write(tmp_path / "bare", {"1": "train"}, with_run=False)
    with pytest.raises(kind, match=says):
        UnionOfCollections(parts=parts, path=str(tmp_path)).read()
