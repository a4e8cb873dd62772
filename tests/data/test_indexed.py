"""Stores and example files read by offset give what reading everything gives."""

import json
import os
import random
import shutil

import pytest
from test_prepare import ALL, built, collection, queries

from rl_rerank.data import Store, indexed
from rl_rerank.data.examples import ExampleFile, line
from rl_rerank.data.indexed import Index, finder, grade_counts, longest, outlines
from rl_rerank.types import Candidate, RankingExample


def whole(folder, split):
    """The examples of a store's split, all of whose files are read into memory."""
    lines = (folder / "documents.jsonl").read_bytes().split(b"\n")[:-1]
    documents, offset = {}, 0
    for text in lines:
        documents[offset] = json.loads(text)
        offset += len(text) + 1
    found = []
    for row in map(json.loads, (folder / f"{split}.jsonl").read_bytes().split(b"\n")[:-1]):
        candidates = [
            Candidate(docid, documents[at]["text"], documents[at]["title"], (), rank, score)
            for rank, (docid, score, at) in enumerate(row["candidates"], start=1)
        ]
        source = {"source": "collection"}
        found.append(
            RankingExample(row["qid"], row["query"], tuple(candidates), row["qrels"], "", split, provenance=source)
        )
    return found


@pytest.fixture
def store(tmp_path):
    rng = random.Random(0)
    runs = {f"q{n}": rng.sample(ALL, rng.randint(1, 9)) for n in range(40)}
    qrels = {f"q{n}": {d: rng.choice([-1, 0, 1, 2]) for d in rng.sample(ALL, 4)} for n in range(40)}
    asked = [{**one, "text": "höhle\u2028" * rng.randint(1, 9)} for one in queries(40)]
    asked[30:] = [{**one, "split": "dev"} for one in asked[30:]]
    return built(tmp_path, collection(tmp_path / "c", asked, qrels, runs))


def test_examples_read_by_offset_are_those_of_the_whole_files(store, tmp_path):
    for split, size in (("train", 30), ("dev", 10)):
        expected, found = whole(tmp_path / "run/data", split), store.examples(split)
        assert len(found) == store.size(split) == len(expected) == size
        assert list(found) == expected and found[2:7] == expected[2:7] and found[-1] == expected[-1]
        for place in random.Random(1).sample(range(size), size):
            assert found[place] == expected[place]
            assert found.place(expected[place].qid) == finder(found)(expected[place].qid) == place
            assert store.example(expected[place].qid) == expected[place]
        with pytest.raises(IndexError):
            found[size]
        assert found.place("q77") is finder(found)("q77") is finder(expected)("q77") is None
        for outline, one in zip(outlines(found), expected, strict=True):
            assert (outline.qid, outline.query, outline.qrels) == (one.qid, one.query, one.qrels)
            assert [(c.docid, c.rank, c.score) for c in outline.candidates] == [
                (c.docid, c.rank, c.score) for c in one.candidates
            ]


def test_the_index_has_what_an_order_of_training_needs(store, tmp_path):
    expected, found = whole(tmp_path / "run/data", "train"), store.examples("train")
    gains = [[one.gain(docid) for docid in one.docids] for one in expected]
    assert grade_counts(found)[0].tolist() == [values.count(max(values)) for values in gains]
    assert grade_counts(found)[1].tolist() == [sum(v < max(values) for v in values) for values in gains]
    assert [column.tolist() for column in grade_counts(expected)] == [c.tolist() for c in grade_counts(found)]
    by_length = sorted(range(30), key=lambda i: -len(expected[i].query))[:5]
    assert longest(found, 5) == longest(expected, 5) == by_length
    assert Index.read(tmp_path / "run/data/train.jsonl") is not None
    assert "q7" not in (tmp_path / "run/data/store.json").read_text()


def test_a_store_from_before_there_was_an_index_is_read_all_the_same(store, tmp_path):
    shutil.copytree(tmp_path / "run/data", tmp_path / "old")
    meta = json.loads((tmp_path / "old/store.json").read_text())
    del meta["images"]
    (tmp_path / "old/store.json").write_text(json.dumps({**meta, "offsets": {"train": {"q0": 0}, "dev": {}}}))
    for file in (tmp_path / "old").glob("*.index.npy"):
        file.unlink()
    old = Store(tmp_path / "old")
    assert list(old.examples("train")) == list(store.examples("train"))
    assert old.example("q33") == store.example("q33")
    assert old.qrels("dev") == store.qrels("dev")
    assert grade_counts(old.examples("train"))[1].tolist() == grade_counts(store.examples("train"))[1].tolist()
    assert old.has_images and not store.has_images


def test_qids_of_one_hash_are_told_apart(store, monkeypatch):
    monkeypatch.setattr(indexed, "hashed", lambda qid: 7)
    found = store.examples("train")
    found.lines = Index.of(found._lines(), lambda: found.path.stat().st_size)
    assert [found.place(f"q{n}") for n in range(30)] == list(range(30))
    assert found.place("q30") is None


def test_the_index_of_another_file_is_not_used(tmp_path):
    path, longer = tmp_path / "examples.jsonl", RankingExample("a", "a longer query", (Candidate("d", "text"),))
    path.write_text(line(RankingExample("a", "query", (Candidate("d", "text"),))))
    ExampleFile(path).lines.write(path)
    assert Index.read(path) is not None
    path.write_text(line(longer) + line(RankingExample("b", "query", ())))
    assert Index.read(path) is None
    assert [one.qid for one in ExampleFile(path)] == ["a", "b"] and ExampleFile(path).example("a") == longer
    # One of the same size, which was written later.
    ExampleFile(path).lines.write(path)
    path.write_text(line(RankingExample("b", "query", ())) + line(longer))
    stamp = (tmp_path / "examples.index.npy").stat().st_mtime_ns
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert ExampleFile(path).place("a") == 1


def test_a_file_without_examples_has_none(tmp_path):
    (tmp_path / "examples.jsonl").write_text("")
    found = ExampleFile(tmp_path / "examples.jsonl")
    assert len(found) == 0 and list(found) == [] and found.place("q") is None
    with pytest.raises(LookupError, match=r"examples\.jsonl' has no example with qid 'q'"):
        found.example("q")
