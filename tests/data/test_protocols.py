"""The rules of BRIGHT and ArguAna, and datasets by their ids."""

import importlib.util
import json
from pathlib import Path

import pytest

from rl_rerank.config import DataConfig, build
from rl_rerank.data import prepare
from rl_rerank.data.records import Document, Query
from rl_rerank.data.sources.irds import IRDatasets


def jsonl(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def bright(folder: Path) -> str:
    docids = ["a/one two.txt", "b.txt", "c  d.txt", "e.txt"]
    jsonl(folder / "corpus.jsonl", [{"id": d, "content": f"text of {d}"} for d in docids])
    jsonl(folder / "queries.jsonl", [{"id": "q1", "text": "one text", "split": "test"}])
    (folder / "qrels.tsv").write_text("q1 0 a/one two.txt 1\nq1 0 e.txt 1\n")
    run = [f"q1 Q0 {d} {i} {9 - i} tag\n" for i, d in enumerate(["c  d.txt", *docids[:2], "e.txt"], start=1)]
    (folder / "run.bm25.trec").write_text("".join(run))
    (folder / "excluded.tsv").write_text("q1\tc  d.txt\n")
    return str(folder)


def test_bright_cuts_to_the_depth_after_leaving_out_what_is_excluded_and_takes_spaces(tmp_path):
    config = DataConfig(source="collection", path=bright(tmp_path / "c"), depth=2, protocol="bright")
    example = prepare(config, tmp_path / "data").example("q1")
    # c d is first and excluded, so the two best are the next two
    assert example.docids == ("a/one%20two.txt", "b.txt")
    assert example.candidates[0].text == "text of a/one two.txt"
    assert example.qrels == {"a/one%20two.txt": 1, "e.txt": 1}


def test_without_the_protocol_a_docid_with_a_space_is_refused(tmp_path):
    with pytest.raises(ValueError, match="docid must be one word"):
        prepare(DataConfig(source="collection", path=bright(tmp_path / "c"), depth=2), tmp_path / "data")


def test_bright_in_beirs_layout_and_in_ready_made_rows(tmp_path):
    folder = Path(bright(tmp_path / "c"))
    (folder / "qrels").mkdir()
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta/one two.txt\t1\n")
    beir = DataConfig(source="beir", path=str(folder), protocol="bright")
    found = prepare(beir, tmp_path / "beir")
    assert found.qrels("test") == {"q1": {"a/one%20two.txt": 1}}
    # excluded.tsv counts here too
    assert sorted(found.example("q1").docids) == ["a/one%20two.txt", "b.txt", "e.txt"]
    candidates = [{"docid": "x y", "text": "a"}, {"docid": "z", "text": "b"}, {"docid": "w", "text": "c"}]
    row = {
        "qid": "q",
        "query": "ice",
        "candidates": candidates,
        "qrels": {"x y": 1},
        "excluded": ["z"],
        "split": "test",
    }
    jsonl(tmp_path / "rows.jsonl", [row])
    config = DataConfig(source="jsonl", path=str(tmp_path / "rows.jsonl"), depth=2, protocol="bright")
    example = prepare(config, tmp_path / "rows").example("q")
    assert (example.docids, example.qrels) == (("x%20y", "w"), {"x%20y": 1})


def test_a_source_that_reads_no_spaces_refuses_bright(tmp_path):
    with pytest.raises(ValueError, match=r"protocol=bright: data.source=pydocs reads no docids with white space"):
        prepare(DataConfig(protocol="bright"), tmp_path / "data")
    with pytest.raises(ValueError, match=r"data.protocol must be one of , bright, arguana; got 'brigth'"):
        build(DataConfig, {"protocol": "brigth"}, "data.")


def test_in_arguana_no_query_finds_itself(tmp_path):
    docs = {"q1": "ice cave", "d2": "ice wall", "d3": "ice"}
    jsonl(tmp_path / "c/corpus.jsonl", [{"_id": d, "title": "", "text": t} for d, t in docs.items()])
    jsonl(tmp_path / "c/queries.jsonl", [{"_id": "q1", "text": "ice cave"}])
    (tmp_path / "c/qrels").mkdir()
    (tmp_path / "c/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\n")
    plain = DataConfig(source="beir", path=str(tmp_path / "c"), depth=2)
    assert prepare(plain, tmp_path / "plain").example("q1").docids[0] == "q1"
    arguana = DataConfig(source="beir", path=str(tmp_path / "c"), depth=2, protocol="arguana")
    assert sorted(prepare(arguana, tmp_path / "arguana").example("q1").docids) == ["d2", "d3"]


@pytest.mark.skipif(importlib.util.find_spec("ir_datasets") is not None, reason="ir_datasets is installed")
def test_what_ir_datasets_needs_is_said(tmp_path):
    with pytest.raises(ImportError, match=r"pip install 'rl-rerank\[ir-datasets\]'"):
        prepare(DataConfig(source="ir_datasets", params={"test": "vaswani"}), tmp_path / "data")
    with pytest.raises(ValueError, match="needs an id"):
        IRDatasets()


def test_a_dataset_is_read_by_its_id(tmp_path):
    package = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("d1\tice cave\nd2\trock wall\nd3\tlamp\n")
    (tmp_path / "queries.tsv").write_text("q1\tcave\n")
    (tmp_path / "qrels").write_text("q1 0 d1 2\n")
    files = {"docs_tsv": "docs.tsv", "queries_tsv": "queries.tsv", "qrels_trec": "qrels"}
    made = package.create_dataset(**{key: str(tmp_path / name) for key, name in files.items()})
    package.registry.register(f"ours/{tmp_path.name}", made)
    found = IRDatasets(test=f"ours/{tmp_path.name}").read()
    assert list(found.queries) == [Query("q1", "cave", "test")]
    assert found.documents["d1"] == Document("", "ice cave")
    assert (found.qrels, found.runs) == ({"q1": {"d1": 2}}, None)
    (tmp_path / "run").write_text("q1 Q0 d2 1 3 x\n")
    limited = IRDatasets(test=f"ours/{tmp_path.name}", run=str(tmp_path / "run")).read()
    assert sorted(limited.documents) == ["d1", "d2"]
    assert limited.runs == {"q1": [("d2", 3.0)]}
