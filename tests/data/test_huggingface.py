"""Hugging Face datasets from local folders: the same rows in every format, and how each fault is named."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from rl_rerank.config import DataConfig
from rl_rerank.data import prepare
from rl_rerank.data.records import Document, Query
from rl_rerank.data.sources.columns import hash_of
from rl_rerank.data.sources.huggingface import HuggingFace
from rl_rerank.experiment.compose import compose

datasets = pytest.importorskip("datasets")

PAIRS = {"qid": "query_id", "query": "query", "positives": "positive_passages", "negatives": "negative_passages"}
TEXTS = {"query": "q", "positives": "pos", "negatives": "neg"}
LISTS = {"query": "q", "candidates": "passages.text", "docids": "passages.id", "grades": "passages.label"}


def passage(docid: str, text: str, title: str = "") -> dict:
    return {"docid": docid, "text": text, "title": title}


ROWS = [
    {
        "query_id": "q1",
        "query": "ice cave",
        "positive_passages": [passage("d1", "cold", "Ice")],
        "negative_passages": [passage("d2", "a wall"), passage("d3", "moss")],
    },
    {
        "query_id": "q2",
        "query": "rock",
        "positive_passages": [passage("d2", "a wall"), passage("d4", "stone")],
        "negative_passages": [passage("d1", "cold", "Ice")],
    },
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def jsonl(path: Path, rows: list) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def written(folder: Path, form: str, rows: list) -> str:
    table = datasets.Dataset.from_list(rows)
    if form == "file":
        return jsonl(folder / "rows.jsonl", rows)
    if form == "jsonl":
        return str(Path(jsonl(folder / "train.jsonl", rows)).parent)
    if form == "parquet":
        folder.mkdir(parents=True)
        table.to_parquet(folder / "train-00000-of-00001.parquet")
    elif form == "saved":
        table.save_to_disk(folder)
    else:
        datasets.DatasetDict({"train": table}).save_to_disk(folder)
    return str(folder)


def read(tmp_path: Path, rows: list, columns: dict, **settings):
    return HuggingFace(jsonl(tmp_path / "rows.jsonl", rows), columns=columns, **settings).read()


@pytest.mark.parametrize("form", ["file", "jsonl", "parquet", "saved", "saved splits"])
def test_every_format_of_a_local_dataset_is_the_same_collection(tmp_path, form):
    found = HuggingFace(written(tmp_path / "data", form, ROWS), columns=PAIRS).read()
    assert dict(found.documents) == {
        "d1": Document("Ice", "cold"),
        "d2": Document("", "a wall"),
        "d3": Document("", "moss"),
        "d4": Document("", "stone"),
    }
    assert len(found.documents) == 4
    assert found.queries == [
        Query("q1", "ice cave", cluster=hash_of("ice cave")),
        Query("q2", "rock", cluster=hash_of("rock")),
    ]
    assert found.runs is not None
    assert {qid: dict(grades) for qid, grades in found.qrels.items()} == {
        "q1": {"d1": 1, "d2": 0, "d3": 0},
        "q2": {"d2": 1, "d4": 1, "d1": 0},
    }
    assert {qid: {docid for docid, _ in run} for qid, run in found.runs.items()} == {
        "q1": {"d1", "d2", "d3"},
        "q2": {"d1", "d2", "d4"},
    }
    with pytest.raises(KeyError):
        found.documents["d9"]


def test_positives_are_not_given_away_by_their_places(tmp_path):
    rows = [{"q": f"query {n}", "pos": ["yes"], "neg": ["no", "never"]} for n in range(300)]
    found = read(tmp_path, rows, TEXTS)
    assert found.runs is not None
    places = [[docid for docid, _ in run].index(hash_of("\nyes")) for run in found.runs.values()]
    # Each place 100 times of 300, with a standard deviation of sqrt(300 * 1/3 * 2/3) = 8.2; four of them.
    assert [places.count(place) for place in range(3)] == [pytest.approx(100, abs=33)] * 3


def test_candidates_keep_the_order_of_their_first_stage_with_grades_and_scores_beside_them(tmp_path):
    rows = [
        {
            "q": "ice",
            "passages": {"text": ["c", "b", "a"], "id": [7, 5, 6], "label": [0, 2, None], "s": [0.5, 3, None]},
        }
    ]
    found = read(tmp_path, rows, {**LISTS, "scores": "passages.s"})
    qid = hash_of("ice")
    assert found.runs is not None
    assert found.runs[qid] == [("7", None), ("5", None), ("6", None)]
    assert found.qrels[qid] == {"7": 0, "5": 2}
    assert found.queries[0].scores == {"7": 0.5, "5": 3.0}
    assert found.documents["5"] == Document("", "b")


def test_scores_of_positives_and_negatives_are_gold_scores(tmp_path):
    rows = [{"q": "ice", "pos": ["a"], "neg": ["b", "c"], "ps": [0.9], "ns": [0.2, 0.1]}]
    found = read(tmp_path, rows, {**TEXTS, "positive_scores": "ps", "negative_scores": "ns"})
    assert found.queries[0].scores == {hash_of("\na"): 0.9, hash_of("\nb"): 0.2, hash_of("\nc"): 0.1}


def test_a_single_text_is_a_list_of_one_and_positives_alone_leave_the_search_to_bm25(tmp_path):
    rows = [{"q": "ice", "pos": "cold ice"}, {"q": "rock", "pos": "hard rock"}]
    found = read(tmp_path, rows, {"query": "q", "positives": "pos"})
    assert found.runs is None
    assert found.qrels == {hash_of("ice"): {hash_of("\ncold ice"): 1}, hash_of("rock"): {hash_of("\nhard rock"): 1}}


def test_repeated_texts_and_queries_without_ids_are_left_out_and_counted(tmp_path):
    rows = [{"q": "ice", "pos": ["a"], "neg": ["a", "b", ""]}, {"q": "ice", "pos": ["c"], "neg": []}]
    found = read(tmp_path, rows, TEXTS)
    assert found.qrels == {hash_of("ice"): {hash_of("\na"): 1, hash_of("\nb"): 0}}
    place = f"{tmp_path / 'rows.jsonl'}, split train, row"
    assert found.warnings == (
        f"passages left out that repeat the text of an earlier one of their query: 1 (first: {place} 0: column 'neg', "
        "passage 0)",
        f"empty documents left out: 1 (first: {place} 0: column 'neg', passage 2)",
        f"rows left out that repeat the query of an earlier one: 1 (first: {place} 1)",
    )


BROKEN = [
    ({**ROWS[0], "query": 5}, "split train, row 0: column 'query' must be a text; got 5"),
    ({**ROWS[0], "query": None}, "row 0: column 'query' is null"),
    ({**ROWS[0], "query_id": "a b"}, "row 0: column 'query_id': qid must be one word, .*; got 'a b'"),
    ({**ROWS[0], "positive_passages": []}, "row 0: column 'positive_passages' is an empty list: a query without posit"),
    ({**ROWS[0], "positive_passages": 3}, "row 0: column 'positive_passages' must be a list of passages; got 3"),
    (
        {**ROWS[0], "positive_passages": [[1]]},
        r"column 'positive_passages', passage 0 must be a text, or .*; got \[1\]",
    ),
    (
        {**ROWS[0], "positive_passages": [passage("d2", "x")]},
        "column 'negative_passages', passage 0: docid 'd2' appears",
    ),
    ({**ROWS[0], "positive_passages": [{"docid": "d1"}]}, "column 'positive_passages', passage 0: text is missing"),
]


@pytest.mark.parametrize(("row", "error"), BROKEN)
def test_a_fault_in_a_row_is_named_with_column_row_and_value(tmp_path, row, error):
    with pytest.raises(ValueError, match=error):
        read(tmp_path, [row], PAIRS)


BESIDE = [
    ({"label": [1]}, r"column 'passages.label' must be a list of 2, one for each of candidates; got \[1\]"),
    ({"label": [1.5, 0]}, "column 'passages.label', entry 0: a grade must be a whole number; got 1.5"),
    ({"label": ["yes", "no"]}, "column 'passages.label', entry 0: a grade must be a whole number; got 'yes'"),
    ({"text": [], "id": [], "label": []}, "column 'passages.text' is an empty list: a query without candidates"),
    ({"id": ["d1", "d1"]}, "column 'passages.text', passage 1: docid 'd1' appears more than once in the row"),
]


@pytest.mark.parametrize(("change", "error"), BESIDE)
def test_a_fault_beside_candidates_is_named_too(tmp_path, change, error):
    row = {"q": "ice", "passages": {"text": ["a", "b"], "id": ["d1", "d2"], "label": [1, 0], **change}}
    with pytest.raises(ValueError, match=error):
        read(tmp_path, [row], LISTS)


def test_a_docid_of_two_texts_and_a_repeated_qid_are_refused_with_both_rows(tmp_path):
    other = {**ROWS[1], "negative_passages": [passage("d1", "hot", "Ice")]}
    with pytest.raises(
        ValueError, match=r"row 1: docid 'd1' has another text than in .*row 0; a docid is one document"
    ):
        read(tmp_path, [ROWS[0], other], PAIRS)
    with pytest.raises(ValueError, match=r"row 1: qid 'q1' is already taken by .*row 0; a qid is one query"):
        read(tmp_path, [ROWS[0], {**ROWS[1], "query_id": "q1"}], PAIRS)


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    with pytest.raises(LookupError, match=r"columns.query: .* has no column 'qery'; it has: .*Did you mean 'query'\?"):
        read(tmp_path, ROWS, {**PAIRS, "query": "qery"})
    row = {"q": "ice", "passages": {"text": ["a"], "id": ["d1"], "label": [1]}}
    with pytest.raises(
        LookupError, match=r"no field 'lable' in the column 'passages'; it has: .*Did you mean 'label'\?"
    ):
        read(tmp_path, [row], {**LISTS, "grades": "passages.lable"})


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"query": "q"}, "needs positives or candidates; it has neither"),
        ({"positives": "p", "candidates": "c"}, "needs positives or candidates; it has both"),
        ({"positives": "p", "grades": "g"}, "columns.grades belongs to candidates, which is not given"),
        ({"positive": "p"}, r"columns has no 'positive'; .*Did you mean 'positives'\?"),
        ({"positives": 3}, "columns.positives must be the name of a column; got 3"),
    ],
)
def test_columns_that_make_no_example_are_refused_before_anything_is_read(columns, error):
    with pytest.raises(ValueError, match=error):
        HuggingFace("anywhere", columns=columns)


def test_splits_are_taken_by_name_and_the_only_one_is_cut_by_a_hash_of_the_query(tmp_path):
    rows = [{"q": f"query {n}", "id": n, "pos": ["a"], "neg": ["b"]} for n in range(200)]
    columns = {**TEXTS, "qid": "id"}
    path = jsonl(tmp_path / "one/rows.jsonl", rows)
    store = prepare(DataConfig(source="hf", path=path, params={"columns": columns}), tmp_path / "run/data")
    assert sum(store.size(split) for split in ("train", "dev", "test")) == 200
    # The same questions under other ids, in another order: every question keeps its split.
    other = jsonl(tmp_path / "two/rows.jsonl", [{**row, "id": 1000 - row["id"]} for row in rows[::-1]])
    again = prepare(DataConfig(source="hf", path=other, params={"columns": columns}), tmp_path / "again/data")
    for split in ("train", "dev", "test"):
        assert {e.query for e in store.examples(split)} == {e.query for e in again.examples(split)}


def test_splits_can_be_named_and_one_that_does_not_exist_is_refused(tmp_path):
    jsonl(tmp_path / "d/train.jsonl", [{"q": "ice", "pos": ["a"], "neg": ["b"]}])
    jsonl(tmp_path / "d/extra.jsonl", [{"q": "rock", "pos": ["a"], "neg": ["b"]}])
    data = {"path": str(tmp_path / "d"), "columns": TEXTS, "files": {n: f"{n}.jsonl" for n in ("train", "extra")}}
    named = HuggingFace(**data, splits={"dev": "train", "test": "extra"}).read()
    assert [(query.text, query.split) for query in named.queries] == [("ice", "dev"), ("rock", "test")]
    with pytest.raises(LookupError, match=r"splits.dev: .* has no split 'trian'; .*Did you mean 'train'\?"):
        HuggingFace(**data, splits={"dev": "trian"}).read()
    with pytest.raises(ValueError, match="our splits are train, dev and test; got 'validation'"):
        HuggingFace(**data, splits={"validation": "train"})


def test_splits_that_are_not_used_are_mentioned(tmp_path):
    for name in ("train", "validation", "holdout"):
        jsonl(tmp_path / f"d/{name}.jsonl", [{"q": name, "pos": ["a"], "neg": ["b"]}])
    files = {name: f"{name}.jsonl" for name in ("train", "validation", "holdout")}
    found = HuggingFace(str(tmp_path / "d"), columns=TEXTS, files=files).read()
    assert [(query.text, query.split) for query in found.queries] == [("train", "train"), ("validation", "dev")]
    assert found.warnings == ("splits left out, which data.params.splits does not name: 1 (first: 'holdout')",)


def test_an_id_of_the_hub_needs_a_commit_and_a_name_that_is_nothing_is_refused():
    source = HuggingFace("owner/name", columns=TEXTS)
    with pytest.raises(
        ValueError, match=r"'owner/name' is read from the hub at one commit.*data.params.revision=COMMIT"
    ):
        source.state()
    with pytest.raises(ValueError, match="got 'main'"):
        HuggingFace("owner/name", columns=TEXTS, revision="main").state()
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert HuggingFace("owner/name", columns=TEXTS, revision=commit).state() == f"owner/name@{commit}"
    with pytest.raises(FileNotFoundError, match="'no such place' is no file or folder, and no id of a dataset"):
        HuggingFace("no such place", columns=TEXTS).state()


def test_a_script_is_never_run_and_its_files_can_be_named(tmp_path):
    folder = tmp_path / "scripted"
    jsonl(folder / "rows.jsonl", [{"q": "ice", "pos": ["a"], "neg": ["b"]}])
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match=r"code is never run: name its data files with data\.params\.files"):
        HuggingFace(str(folder), columns=TEXTS).read()
    assert len(HuggingFace(str(folder), columns=TEXTS, files={"train": "rows.jsonl"}).read().queries) == 1
    assert not (tmp_path / "ran").exists()


def test_errors_never_show_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    path = tmp_path / "hf_verysecret" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text('{"q": \n')
    with pytest.raises(ValueError, match="cannot be read") as caught:
        HuggingFace(str(path.parent / "rows.jsonl"), columns=TEXTS).read()
    reason = str(caught.value).partition("cannot be read")[2]
    assert "hf_verysecret" not in reason
    assert caught.value.__suppress_context__


def test_the_store_is_that_of_the_same_rows_as_jsonl(tmp_path):
    row = {"q": "ice", "passages": {"text": ["c", "b", "a"], "id": ["d7", "d5", "d6"], "label": [0, 2, 1]}}
    ours = {
        "qid": hash_of("ice"),
        "query": "ice",
        "split": "test",
        "candidates": [{"docid": d, "text": t} for d, t in zip(row["passages"]["id"], "cba", strict=True)],
        "qrels": {"d7": 0, "d5": 2, "d6": 1},
    }
    hf = {"columns": LISTS, "splits": {"test": "train"}}
    path = jsonl(tmp_path / "rows.jsonl", [row])
    one = prepare(DataConfig(source="hf", path=path, params=hf, depth=2), tmp_path / "one/data")
    two = prepare(
        DataConfig(source="jsonl", path=jsonl(tmp_path / "ours.jsonl", [ours]), depth=2), tmp_path / "two/data"
    )
    for file in ("documents.jsonl", "test.jsonl", "test.index.npy"):
        assert (tmp_path / "one/data" / file).read_bytes() == (tmp_path / "two/data" / file).read_bytes()
    assert one.qrels("test") == two.qrels("test")


@pytest.mark.slow
def test_texts_are_never_in_memory_all_at_once(tmp_path):
    # 300 queries with 2 passages of about 40,000 characters: 24 MB of text.
    rows = [{"q": f"query {n}", "pos": [f"{n} " * 10000], "neg": [f"{n} x " * 6600]} for n in range(300)]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    size = Path(path).stat().st_size
    assert size > 20e6
    del rows
    config = DataConfig(source="hf", path=path, params={"columns": TEXTS})
    HuggingFace(path, columns=TEXTS).read()  # imports, and the cache of `datasets`
    tracemalloc.start()
    store = prepare(config, tmp_path / "run/data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(store.size(split) for split in store.splits) == 300
    # The rows that are kept, 64 of 300, with their texts, and nothing that grows with the number of rows but ids.
    assert peak < 0.4 * size


def test_a_group_is_read_and_must_be_a_text(tmp_path):
    row = {"q": "ice", "pos": ["a"], "neg": ["b"], "subset": "caves"}
    assert read(tmp_path, [row], {**TEXTS, "group": "subset"}).queries[0].group == "caves"
    with pytest.raises(ValueError, match="row 0: column 'subset' must be a text; got 3"):
        read(tmp_path, [{**row, "subset": 3}], {**TEXTS, "group": "subset"})


@pytest.mark.parametrize("preset", ["hf_tevatron", "hf_msmarco", "hf_reasonir", "hf_reasonrank", "hf_rlhn"])
def test_presets_read_rows_of_their_layout(tmp_path, preset):
    folder = tmp_path / "data"
    jsonl(folder / "train.jsonl", [{**row, "subset": "fiqa"} for row in ROWS])
    (folder / "train.jsonl.gz").write_bytes(gzip.compress((folder / "train.jsonl").read_bytes()))
    (folder / "train.jsonl").unlink()
    data = compose("run", [f"data={preset}", f"data.path={folder}"]).data
    found = prepare(data, tmp_path / "run/data")
    assert sum(found.size(split) for split in found.splits) == 2


def test_the_preset_of_flagembedding_reads_its_rows_and_a_user_adds_scores(tmp_path):
    path = jsonl(tmp_path / "d.jsonl", [{"query": "ice", "pos": ["a"], "neg": ["b"], "pos_scores": [0.7]}])
    column = "data.params.columns.positive_scores=pos_scores"
    data = compose("run", ["data=hf_flagembedding", f"data.path={path}", column]).data
    assert HuggingFace(path, **data.params).read().queries[0].scores == {hash_of("\na"): 0.7}
