"""What each source reads, and how it names what is broken."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_rerank.data.records import Document, Query
from rl_rerank.data.sources.beir import Beir
from rl_rerank.data.sources.collection import CollectionFolder
from rl_rerank.data.sources.jsonl import JsonLines
from rl_rerank.data.sources.trec_files import TrecFiles
from rl_rerank.io import trec

CORPUS = [{"docid": "d1", "title": "Ice", "text": "ice cave"}, {"docid": 2, "text": "rock wall"}]
QUERIES = [{"qid": "q1", "text": "cave", "split": "train"}, {"qid": "q2", "text": "wall", "split": "validation"}]


def jsonl(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def collection(folder: Path, corpus: list = CORPUS, queries: list = QUERIES, qrels: str = "q1 0 d1 2\n") -> str:
    jsonl(folder / "corpus.jsonl", corpus)
    jsonl(folder / "queries.jsonl", queries)
    (folder / "qrels.tsv").write_text(qrels)
    return str(folder)


def beir(folder: Path, corpus: list, queries: list, **qrels: str) -> str:
    jsonl(folder / "corpus.jsonl", corpus)
    jsonl(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir(exist_ok=True)
    for split, text in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text(text)
    return str(folder)


def test_a_collection_folder_gives_documents_queries_judgments_and_the_run_in_score_order(tmp_path):
    path = collection(tmp_path)
    (tmp_path / "run.bm25.trec").write_text("q1 Q0 2 1 0.5 x\nq1 Q0 d1 2 0.75 x\n")
    (tmp_path / "excluded.tsv").write_text("q1\td9\n")
    found = CollectionFolder(path).read()
    assert found.documents == {"d1": Document("Ice", "ice cave"), "2": Document("", "rock wall")}
    assert list(found.queries) == [Query("q1", "cave", "train"), Query("q2", "wall", "dev")]
    assert found.qrels == {"q1": {"d1": 2}}
    assert found.runs == {"q1": [("d1", 0.75), ("2", 0.5)]}
    assert found.excluded == {"q1": {"d9"}}
    assert found.warnings == ()


def test_compressed_files_are_the_same_collection(tmp_path):
    plain = CollectionFolder(collection(tmp_path)).read()
    for file in list(tmp_path.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert CollectionFolder(str(tmp_path)).read() == plain


def test_images_belong_to_the_folder_and_make_a_document_without_text_worth_keeping(tmp_path):
    path = collection(tmp_path, [{"docid": "d1", "text": "", "image": "images/1.jpg"}])
    assert CollectionFolder(path).read().documents["d1"].images == (str(tmp_path / "images/1.jpg"),)


def test_runs_other_than_bm25_are_chosen_by_name_and_a_choice_is_demanded_between_several(tmp_path):
    path = collection(tmp_path)
    assert CollectionFolder(path).read().runs is None
    (tmp_path / "run.dense.trec").write_text("q1 Q0 d1 1 1 x\n")
    assert CollectionFolder(path).read().runs == {"q1": [("d1", 1.0)]}
    (tmp_path / "run.sparse.trec").write_text("q2 Q0 d1 1 1 x\n")
    with pytest.raises(ValueError, match=r"has the runs dense, sparse; choose one with data.params.run"):
        CollectionFolder(path).read()
    assert CollectionFolder(path, run="sparse").read().runs == {"q2": [("d1", 1.0)]}
    with pytest.raises(LookupError, match=r"no file run.none.trec; the runs in it: dense, sparse"):
        CollectionFolder(path, run="none").read()


def test_empty_queries_and_documents_are_left_out_counted_and_located(tmp_path):
    corpus = [*CORPUS, {"docid": "d3", "text": " "}, {"docid": "d4", "title": "", "text": ""}]
    queries = [{"qid": "q0", "text": "  "}, {"qid": "q1", "text": "cave"}]
    found = CollectionFolder(collection(tmp_path, corpus, queries)).read()
    assert list(found.documents) == ["d1", "2"]
    assert [query.qid for query in found.queries] == ["q1"]
    assert found.warnings == (
        f"empty documents left out: 2 (first: {tmp_path}/corpus.jsonl:3, docid 'd3')",
        f"empty queries skipped: 1 (first: {tmp_path}/queries.jsonl:1, qid 'q0')",
    )


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("corpus.jsonl", b'{"docid": "d3", "text": ', "expected one JSON object; got"),
        ("corpus.jsonl", b'["d3", "text"]', "expected one JSON object; got"),
        ("corpus.jsonl", b'{"text": "no docid"}', "docid is missing; the line has: text"),
        ("corpus.jsonl", b'{"docid": "d3", "body": "x"}', "text is missing; the line has: docid, body"),
        ("corpus.jsonl", b'{"docid": "d3", "text": 3}', "text must be a string; got 3"),
        ("corpus.jsonl", b'{"docid": "d 3", "text": "x"}', "docid must be one word"),
        ("corpus.jsonl", b'{"docid": "d1", "text": "x"}', "docid 'd1' is already taken by {folder}/corpus.jsonl:1"),
        ("corpus.jsonl", b'{"docid": "d3", "text": "caf\xe9"}', "expected UTF-8 text; got byte 0xe9"),
        ("queries.jsonl", b'{"qid": "q1", "text": "x"}', "qid 'q1' is already taken by {folder}/queries.jsonl:1"),
        ("queries.jsonl", b'{"qid": "q3"}', "text is missing; the line has: qid"),
        ("queries.jsonl", b'{"qid": true, "text": "x"}', "qid must be a string; got True"),
        ("queries.jsonl", b'{"qid": "q3", "text": "x", "split": "exam"}', "split must be one of train, dev, test,"),
    ],
)
def test_a_broken_line_is_named_with_file_line_and_reason(tmp_path, file, line, reason):
    path = collection(tmp_path)
    with (tmp_path / file).open("ab") as out:
        out.write(b"\n" + line + b"\n")
    with pytest.raises(ValueError) as failure:
        CollectionFolder(path).read()
    assert str(failure.value).startswith(f"{tmp_path}/{file}:4: ")
    assert reason.format(folder=tmp_path) in str(failure.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*/nowhere'"):
        CollectionFolder(str(tmp_path / "nowhere")).read()
    (tmp_path / "corpus.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=r"has no file queries.jsonl or queries.jsonl.gz"):
        CollectionFolder(str(tmp_path)).read()
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*/none.jsonl'"):
        JsonLines(str(tmp_path / "none.jsonl")).read()


def test_the_state_follows_the_contents_of_the_files(tmp_path):
    source = CollectionFolder(collection(tmp_path / "a"))
    before = source.state()
    assert CollectionFolder(collection(tmp_path / "b")).state() == before
    (tmp_path / "a/qrels.tsv").write_text("q1 0 d1 1\n")
    assert source.state() != before


def test_a_beir_folder_takes_splits_from_its_qrels_files_and_leaves_unjudged_queries_alone(tmp_path):
    queries = [{"_id": "q1", "text": "cave"}, {"_id": "q2", "text": "wall"}, {"_id": "q3", "text": "lamp"}]
    header = "query-id\tcorpus-id\tscore\n"
    corpus = [{"_id": "d1", "title": "Ice", "text": "ice cave"}]
    path = beir(tmp_path, corpus, queries, train=f"{header}q1\td1\t1\n", test=f"{header}q2\td1\t2\n")
    found = Beir(path).read()
    assert found.documents == {"d1": Document("Ice", "ice cave")}
    assert list(found.queries) == [Query("q1", "cave", "train"), Query("q2", "wall", "test")]
    assert found.qrels == {"q1": {"d1": 1}, "q2": {"d1": 2}}
    assert found.runs is None


def test_beir_qrels_without_a_header_lose_no_line_and_a_query_in_two_files_is_held_out(tmp_path):
    queries = [{"_id": "q1", "text": "cave"}]
    corpus = [{"_id": "d1", "text": "ice cave"}]
    found = Beir(beir(tmp_path, corpus, queries, train="q1\td1\t1\n", test="q1\td1\t2\n")).read()
    assert list(found.queries) == [Query("q1", "cave", "test")]
    assert found.qrels == {"q1": {"d1": 2}}
    assert found.warnings == ("queries taken out of train since test judges them too: 1 (first: qid 'q1')",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\td1", "expected 'query-id TAB corpus-id TAB score'; got 2 columns"),
        ("q1 d1 1", "got 1 columns"),
        ("q1\td1\tyes", "got 'yes' as the grade, which is not an integer"),
        ("q1\td0\t2", "expected one grade for qid 'q1' and docid 'd0'; got 2 here and 1 before"),
    ],
)
def test_a_broken_beir_judgment_is_named(tmp_path, line, reason):
    queries, corpus = [{"_id": "q1", "text": "cave"}], [{"_id": "d1", "text": "ice cave"}]
    path = beir(tmp_path, corpus, queries, test=f"query-id\tcorpus-id\tscore\nq1\td0\t1\n{line}\n")
    with pytest.raises(ValueError) as failure:
        Beir(path).read()
    assert str(failure.value).startswith(f"{tmp_path}/qrels/test.tsv:3: ")
    assert reason in str(failure.value)


def test_a_beir_folder_without_qrels_is_named(tmp_path):
    path = beir(tmp_path, [{"_id": "d1", "text": "x"}], [{"_id": "q1", "text": "y"}])
    with pytest.raises(FileNotFoundError, match=r"qrels' has none of train.tsv, dev.tsv and test.tsv"):
        Beir(path).read()


def test_trec_files_may_be_tables_or_jsonl_and_one_split_may_take_all(tmp_path):
    (tmp_path / "topics.tsv").write_text("q1\tice cave\nq2\t \n")
    (tmp_path / "docs.tsv").write_text("d1\tice cave\nd2\trock wall\n")
    (tmp_path / "titled.tsv").write_text("d1\tIce\tice cave\n")
    (tmp_path / "qrels").write_text("q1 0 d1 3\n")
    (tmp_path / "run").write_text("q1 Q0 d2 1 3.5 x\n")
    source = TrecFiles("topics.tsv", "docs.tsv", "qrels", "run", path=str(tmp_path), split="test")
    found = source.read()
    assert found.documents == {"d1": Document("", "ice cave"), "d2": Document("", "rock wall")}
    assert list(found.queries) == [Query("q1", "ice cave", "test")]
    assert (found.qrels, found.runs) == ({"q1": {"d1": 3}}, {"q1": [("d2", 3.5)]})
    assert found.warnings == (f"empty queries skipped: 1 (first: {tmp_path}/topics.tsv:2, qid 'q2')",)
    titled = TrecFiles(str(tmp_path / "topics.tsv"), str(tmp_path / "titled.tsv"))
    assert titled.read().documents == {"d1": Document("Ice", "ice cave")}
    assert (titled.read().qrels, titled.read().runs) == ({}, None)
    assert titled.state() != source.state()


@pytest.mark.parametrize(
    ("topics", "documents", "reason"),
    [
        ("q1 ice\n", "d1\tx\n", "topics.tsv:1: expected 'qid TAB text'; got 1 columns: 'q1 ice'"),
        ("q1\tice\tcave\n", "d1\tx\n", "topics.tsv:1: expected 'qid TAB text'; got 3 columns"),
        ("q 1\tice\n", "d1\tx\n", "topics.tsv:1: qid must be one word"),
        ("q1\tice\n", "d1\tx\nd1\ty\n", "docs.tsv:2: docid 'd1' is already taken by"),
        ("q1\tice\n", "d1\n", "docs.tsv:1: expected 'docid TAB text' or 'docid TAB title TAB text'; got 1 columns"),
    ],
)
def test_a_broken_table_is_named(tmp_path, topics, documents, reason):
    (tmp_path / "topics.tsv").write_text(topics)
    (tmp_path / "docs.tsv").write_text(documents)
    with pytest.raises(ValueError) as failure:
        TrecFiles("topics.tsv", "docs.tsv", path=str(tmp_path)).read()
    assert reason in str(failure.value)


def test_jsonl_examples_keep_the_order_of_their_candidates_whatever_the_scores(tmp_path):
    rows = [
        {
            "qid": 7,
            "query": "cave",
            "split": "test",
            "qrels": {"d1": 2, "d9": 1},
            "candidates": [{"docid": "d2", "text": "rock"}, {"docid": "d1", "title": "Ice", "text": "ice", "score": 3}],
        },
        {"qid": "q8", "query": " ", "candidates": []},
    ]
    path = jsonl(tmp_path / "examples.jsonl", rows)
    found = JsonLines(str(path)).read()
    assert list(found.queries) == [Query("7", "cave", "test")]
    assert found.runs == {"7": [("d2", None), ("d1", 3.0)]}
    assert found.documents == {"d2": Document("", "rock"), "d1": Document("Ice", "ice")}
    assert found.qrels == {"7": {"d1": 2, "d9": 1}}
    assert found.warnings == (f"empty queries skipped: 1 (first: {path}:2, qid 'q8')",)


D1 = {"docid": "d1", "text": "ice"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"qid": "q2", "query": "x"}, "candidates must be a list of objects; got None"),
        ({"qid": "q2", "candidates": [D1]}, "query is missing; the line has: qid, candidates"),
        ({"qid": "q1", "query": "x", "candidates": [D1]}, "qid 'q1' is already taken by {path}:1"),
        (
            {"qid": "q2", "query": "x", "candidates": ["d1"]},
            "candidate 1 must be an object with docid and text; got 'd1'",
        ),
        ({"qid": "q2", "query": "x", "candidates": [D1, {"docid": "d2"}]}, "candidate 2: text is missing"),
        ({"qid": "q2", "query": "x", "candidates": [D1, D1]}, "candidate 2: docid 'd1' appears more than once"),
        (
            {"qid": "q2", "query": "x", "candidates": [{"docid": "d1", "text": "fire"}]},
            "candidate 1: docid 'd1' has another text than at {path}:1: candidate 1",
        ),
        (
            {"qid": "q2", "query": "x", "candidates": [D1 | {"score": "1"}]},
            "candidate 1: score must be a finite number",
        ),
        ({"qid": "q2", "query": "x", "candidates": [D1], "qrels": ["d1"]}, "qrels must be an object docid -> grade"),
        ({"qid": "q2", "query": "x", "candidates": [D1], "qrels": {"d1": True}}, "the grade of docid 'd1' must be"),
        ({"qid": "q2", "query": "x", "candidates": [D1], "qrels": {"d1": 0.5}}, "must be an integer; got 0.5"),
    ],
)
def test_a_broken_example_is_named_with_its_line(tmp_path, row, reason):
    path = jsonl(tmp_path / "examples.jsonl", [{"qid": "q1", "query": "cave", "candidates": [D1]}, row])
    with pytest.raises(ValueError) as failure:
        JsonLines(str(path)).read()
    assert str(failure.value).startswith(f"{path}:2: ")
    assert reason.format(path=path) in str(failure.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b c", "\ud800", ""]), inner),
    max_leaves=4,
)
ROWS = st.fixed_dictionaries(
    {
        "qid": st.sampled_from(["q1", 7, "#q", "#", "q\u00a01"]) | VALUES,
        "query": st.just("cave") | VALUES,
        "candidates": st.just([{"docid": "a", "text": "ice"}, {"docid": "b", "text": "rock", "score": 1}]) | VALUES,
    },
    optional={
        "qrels": st.just({"a": 1}) | st.just({"a": 10**20}) | VALUES,
        "split": st.sampled_from(["", "train", "valid"]) | VALUES,
        "scores": st.just({"a": 10**400}) | VALUES,
        **dict.fromkeys(("order", "excluded", "group", "instruction", "features"), VALUES),
    },
)
LINES = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=12) | st.sampled_from(
    ["[" * 100_000, '{"qid": ' + "9" * 5000 + "}", "null", '{"qid": NaN}']
)


@given(ROWS.map(json.dumps) | LINES)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_row_is_read_or_refused_with_its_line(tmp_path_factory, line):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    first = {"qid": "first", "query": "ice", "candidates": [{"docid": "x", "text": "ice"}]}
    path.write_text(f"{json.dumps(first)}\n{line}\n", encoding="utf-8")
    try:
        found = JsonLines(str(path)).read()
    except ValueError as e:
        assert str(e).startswith(f"{path}:2: ") or str(e).startswith(f"{path}:2, "), e
        return
    for query in found.queries:  # what was read can be written
        json.dumps([query, found.runs[query.qid], found.qrels[query.qid]], ensure_ascii=False).encode()
        assert trec.is_word(query.qid)
