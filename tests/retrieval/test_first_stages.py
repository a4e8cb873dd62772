"""First stages with embeddings: search, the files of embeddings, candidates in the store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import encoders as small

from rl_rerank.config import Config, DataConfig, build
from rl_rerank.data import bm25, prepare
from rl_rerank.data.prepare import reopened
from rl_rerank.data.records import Document, Query
from rl_rerank.engines.local.encoder import load_encoder
from rl_rerank.experiment import run_state
from rl_rerank.experiment.experiment import Experiment
from rl_rerank.retrieval import embeddings
from rl_rerank.retrieval.dense import Dense
from rl_rerank.retrieval.embeddings import Embeddings
from rl_rerank.retrieval.hybrid import Hybrid
from rl_rerank.retrieval.search import nearest, searchable
from rl_rerank.stages.rerank.spec import RerankStage

OPEN = """
import sys
from rl_rerank.config import Config, build
from rl_rerank.data import prepare
from rl_rerank.data.prepare import reopened
path, encoder, folder = sys.argv[1:]
first_stage = {"kind": "dense", "encoder": encoder}
data = build(Config, {"data": {"source": "collection", "path": path, "depth": 3, "first_stage": first_stage}}).data
from pathlib import Path
assert reopened(data, Path(folder)) is not None
assert prepare(data, Path(folder)).examples("test")
"""

DOCUMENTS = {
    "d1": Document("", "ice cave in france"),
    "d2": Document("bread", "oven in paris"),
    "d3": Document("", "sort an array in place"),
    "d4": Document("", " "),
}
QUERIES = [Query("q1", "ice cave"), Query("q2", "sort the elements")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small.make(tmp_path_factory.mktemp("models") / "encoder")


def in_this_process(monkeypatch) -> list[list[int]]:
    """Embed without a process of its own; the list has the numbers of texts of every call, a list for each."""
    calls: list[list[int]] = []

    def embed(self: Dense, jobs) -> None:
        encoder = load_encoder("encoder", Path(self.encoder))
        calls.append([len(job.texts) for job in jobs])
        for of, texts, progress in jobs:
            of.fill(texts, lambda some, role=of.role: encoder.encode(some, role), progress)

    monkeypatch.setattr(Dense, "_embed", embed)
    return calls


def test_the_nearest_documents_by_hand():
    queries, documents = np.eye(2, dtype=np.float32), np.array([[1, 0], [0.6, 0.8], [0, 1], [0.6, 0.8]], np.float32)
    found = nearest(["x", "y"], queries, ["a", "b", "c", "d"], documents, depth=2, excluded={"y": {"c"}})
    # x: a 1, b and d .6, the larger docid first; y: c 1 is excluded, b and d .8
    assert {q: [d for d, _ in run] for q, run in found.items()} == {"x": ["a", "d"], "y": ["d", "b"]}
    assert dict(found["x"]) == pytest.approx({"a": 1.0, "d": 0.6})
    assert nearest(["x"], queries[:1], ["a"], documents[:1], depth=9, excluded={"x": {"a", "z"}}) == {"x": []}
    assert nearest([], queries[:0], [], documents[:0], depth=2, excluded={}) == {}


def test_search_in_blocks_finds_what_one_product_finds(monkeypatch):
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(20, 8)), rng.normal(size=(50, 8))
    qids, docids = [f"q{i}" for i in range(20)], [f"d{i}" for i in range(50)]
    whole = nearest(qids, queries, docids, documents, depth=5, excluded={"q3": {"d1", "d2"}})
    monkeypatch.setattr("rl_rerank.retrieval.search.SIMILARITIES", 150)  # three queries at once
    parts = nearest(qids, queries, docids, documents, depth=5, excluded={"q3": {"d1", "d2"}})
    similar = queries @ documents.T
    for qid, row in zip(qids, similar, strict=True):
        banned = {"d1", "d2"} if qid == "q3" else set()
        order = [docids[n] for n in np.argsort(-row) if docids[n] not in banned][:5]
        assert [d for d, _ in whole[qid]] == [d for d, _ in parts[qid]] == order


def test_documents_without_text_are_not_searched():
    assert searchable(DOCUMENTS) == {
        "d1": "ice cave in france",
        "d2": "bread oven in paris",
        "d3": DOCUMENTS["d3"].text,
    }


def test_work_that_was_cut_off_continues_and_ends_with_the_same_bytes(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(embeddings, "CHUNK", 3)
    encoder, texts = (
        load_encoder("encoder", folder),
        ["ice", "ice cave", "bread oven in paris", "a title", "the", "is"],
    )
    whole, cut = (Embeddings(tmp_path / name, "digest", "document") for name in ("whole", "cut"))
    whole.fill(texts, lambda some: encoder.encode(some, "document"), "test")
    asked: list[str] = []

    def killed(some):
        if asked:
            raise KeyboardInterrupt
        asked.extend(some)
        return encoder.encode(some, "document")

    with pytest.raises(KeyboardInterrupt):
        cut.fill(texts, killed, "test")
    assert not cut.are_complete(texts) and cut.are_complete(texts[:3])
    cut.fill(texts, lambda some: asked.extend(some) or encoder.encode(some, "document"), "test")
    assert asked == texts  # each text once
    assert cut.read(texts).tobytes() == whole.read(texts).tobytes()
    assert {p.name: p.read_bytes() for p in cut.folder.iterdir()} == {
        p.name: p.read_bytes() for p in whole.folder.iterdir()
    }


def test_embeddings_of_another_encoder_role_or_text_are_never_taken(tmp_path):
    made = Embeddings(tmp_path, "digest", "document")
    made.fill(["a", "b"], lambda some: np.ones((len(some), 2), np.float32), "test")
    assert made.are_complete(["a", "b"])
    assert not made.are_complete(["a", "c"]) and not made.are_complete(["b", "a"])
    assert not Embeddings(tmp_path, "other", "document").are_complete(["a", "b"])
    assert not Embeddings(tmp_path, "digest", "query").are_complete(["a", "b"])


def test_dense_candidates_are_the_nearest_ones_and_are_embedded_once(tmp_path, folder, monkeypatch):
    calls, encoder = in_this_process(monkeypatch), load_encoder("encoder", folder)
    ask = {"depth": 2, "excluded": {"q1": {"d1"}}, "language": "en", "cache": tmp_path / "embeddings"}
    found = Dense(encoder=str(folder)).retrieve(DOCUMENTS, QUERIES, **ask)
    shown = searchable(DOCUMENTS)
    for query in QUERIES:
        [vector] = encoder.encode([query.text], "query")
        cosines = {docid: float(vector @ encoder.encode([text], "document")[0]) for docid, text in shown.items()}
        allowed = [d for d in sorted(cosines, key=lambda d: -cosines[d]) if d not in ask["excluded"].get(query.qid, ())]
        assert [docid for docid, _ in found[query.qid]] == allowed[:2]
        assert [score for _, score in found[query.qid]] == pytest.approx([cosines[d] for d in allowed[:2]], abs=1e-6)
    assert calls == [[3, 2]]
    assert Dense(encoder=str(folder)).retrieve(DOCUMENTS, QUERIES, **ask) == found
    Dense(encoder=str(folder)).retrieve(DOCUMENTS, QUERIES[:1], **ask)
    assert calls == [[3, 2], [1]]  # the documents are there


def test_hybrid_candidates_are_those_of_both_fused_by_reciprocal_ranks(tmp_path, folder, monkeypatch):
    in_this_process(monkeypatch)
    ask = {"depth": 3, "excluded": {}, "language": "en", "cache": tmp_path / "embeddings"}
    dense = Dense(encoder=str(folder)).retrieve(DOCUMENTS, QUERIES, **ask)["q1"]
    assert [docid for docid, _ in bm25.retrieve(DOCUMENTS, QUERIES, depth=3)["q1"]] == ["d1"]
    expected = {docid: 0.75 / (60 + rank) for rank, (docid, _) in enumerate(dense, start=1)}
    expected["d1"] += 0.25 / 61
    found = Hybrid(encoder=str(folder), weight=0.25).retrieve(DOCUMENTS, QUERIES, **ask)["q1"]
    assert dict(found) == pytest.approx(expected)
    assert [docid for docid, _ in found] == sorted(expected, key=lambda d: -expected[d])
    alone = Hybrid(encoder=str(folder), weight=1.0).retrieve(DOCUMENTS, QUERIES, **{**ask, "depth": 1})
    assert [docid for docid, _ in alone["q1"]] == ["d1"]


def collection(folder: Path, with_run: bool = False) -> str:
    folder.mkdir()
    documents = ({"docid": docid, "title": d.title, "text": d.text} for docid, d in DOCUMENTS.items())
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    rows = ({"qid": q.qid, "text": q.text, "split": "test"} for q in QUERIES)
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text("q1 0 d1 1\nq2 0 d3 1\n")
    if with_run:
        (folder / "run.bm25.trec").write_text("q1 Q0 d2 1 1.0 x\nq2 Q0 d2 1 1.0 x\n")
    return str(folder)


@pytest.mark.slow
@pytest.mark.process
def test_a_store_with_dense_candidates_is_built_in_another_process_and_opened_without_torch(tmp_path, folder):
    config = DataConfig(source="collection", path=collection(tmp_path / "c"), depth=3)
    config.first_stage = Dense(encoder=str(folder))
    store = prepare(config, tmp_path / "run/data")
    encoder = load_encoder("encoder", folder)
    [query] = encoder.encode(["ice cave"], "query")
    cosines = {d: float(query @ encoder.encode([t], "document")[0]) for d, t in searchable(DOCUMENTS).items()}
    [first, _] = store.examples("test")
    assert [c.docid for c in first.candidates] == sorted(cosines, key=lambda d: -cosines[d])
    assert sorted(p.suffix for p in (tmp_path / "run/embeddings").iterdir()) == [".npy", ".npy"]
    (tmp_path / "no_torch").mkdir()
    (tmp_path / "no_torch/torch.py").write_text("raise ImportError('torch was imported')\n")
    ended = subprocess.run(
        [sys.executable, "-c", OPEN, config.path, str(folder), str(tmp_path / "run/data")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "no_torch"), os.environ.get("PYTHONPATH", "")]),
        },
        check=False,
    )
    assert ended.returncode == 0
    config.first_stage = Dense(encoder=str(folder), batch_size=2)
    assert reopened(config, tmp_path / "run/data") is None


def test_a_first_stage_that_is_named_takes_the_place_of_the_sources_run(tmp_path):
    path = collection(tmp_path / "c", with_run=True)
    given = prepare(DataConfig(source="collection", path=path), tmp_path / "given/data")
    found = prepare(DataConfig(source="collection", path=path, first_stage=bm25.BM25()), tmp_path / "found/data")
    assert [e.docids for e in given.examples("test")] == [("d2",), ("d2",)]
    assert [e.docids for e in found.examples("test")] == [("d1",), ("d3",)]


def test_without_the_setting_stores_and_records_are_what_they_were(tmp_path):
    path = collection(tmp_path / "c")
    stages = {"bm25": RerankStage(kind="rerank", model="first_stage")}
    config = Config(run_dir=str(tmp_path / "run"), data=DataConfig(source="collection", path=path), stages=stages)
    known = {
        "source": "collection", "path": path, "params": {}, "depth": 10, "train_queries": None, "dev_queries": None,
        "test_queries": None, "ensure_relevant": True, "protocol": "", "seed": 1,
    }  # fmt: skip
    record = run_state.record(Experiment.of(config), "bm25")
    assert record["data"] == known
    config.data.first_stage = bm25.BM25()
    assert run_state.record(Experiment.of(config), "bm25")["data"] == {**known, "first_stage": {"kind": "bm25"}}


def test_what_a_first_stage_cannot_be_is_refused_before_any_work(tmp_path, tiny_model_dir):
    def refused(error: type[Exception], says: str, **settings) -> None:
        with pytest.raises(error, match=says):
            Experiment.of(build(Config, {"data": {"first_stage": settings}}))

    refused(ValueError, "data.first_stage.kind must be one of bm25, dense, hybrid; got 'colbert'", kind="colbert")
    refused(ValueError, "no setting 'data.first_stage.weight'", kind="dense", weight=0.5)
    refused(ValueError, "data.first_stage.weight must be from 0 to 1; got 2.0", kind="hybrid", weight=2)
    refused(ValueError, "data.first_stage: pool must be at least 1; got 0", kind="hybrid", pool=0)
    says = r"data.first_stage.encoder='.*tiny' is no encoder, because it has no modules.json"
    refused(ValueError, says, kind="dense", encoder=str(tiny_model_dir))
    refused(FileNotFoundError, "data.first_stage.encoder='/nowhere': there is", kind="dense", encoder="/nowhere")
