"""From a configuration to a store: candidates, splits, limits, rebuilding and what survives a kill."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Thread

import pytest

from rl_rerank.config import DataConfig
from rl_rerank.data import Store, prepare
from rl_rerank.data.prepare import _LEFT_BEHIND

WORDS = ["ice", "cave", "rock", "wall", "lamp", "river", "water", "stone", "moss", "drip"]


def jsonl(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def collection(
    folder: Path, queries: list[dict], qrels: Mapping[str, Mapping[str, int]], run: dict | None = None
) -> str:
    """Ten documents d0 to d9, each of one word."""
    folder.mkdir(parents=True, exist_ok=True)
    jsonl(folder / "corpus.jsonl", [{"docid": f"d{n}", "title": "Titel ä", "text": w} for n, w in enumerate(WORDS)])
    jsonl(folder / "queries.jsonl", queries)
    judged = [f"{qid} 0 {docid} {grade}\n" for qid, grades in qrels.items() for docid, grade in grades.items()]
    (folder / "qrels.tsv").write_text("".join(judged))
    if run is not None:
        lines = [f"{q} Q0 {d} {r} {10 - r} x\n" for q, docids in run.items() for r, d in enumerate(docids, start=1)]
        (folder / "run.bm25.trec").write_text("".join(lines))
    return str(folder)


def queries(count: int, split: str = "train") -> list[dict]:
    return [{"qid": f"q{n}", "text": WORDS[n % 10], "split": split} for n in range(count)]


def built(tmp_path: Path, path: str, **settings) -> Store:
    return prepare(DataConfig(source="collection", path=path, **settings), tmp_path / "run/data")


ALL = [f"d{n}" for n in range(10)]


def test_an_example_comes_back_whole_with_candidates_in_first_stage_order_cut_to_depth(tmp_path):
    qrels = {"q0": {"d1": 2, "d7": 1, "elsewhere": 1}}
    path = collection(tmp_path / "c", queries(1, "test"), qrels, {"q0": ["d3", "d1", "d0"]})
    store = built(tmp_path, path, depth=2)
    [example] = store.examples("test")
    assert example == store.example("q0")
    assert (example.qid, example.query, example.split) == ("q0", "ice", "test")
    assert [(c.docid, c.rank, c.score, c.title, c.text) for c in example.candidates] == [
        ("d3", 1, 9.0, "Titel ä", "wall"),
        ("d1", 2, 8.0, "Titel ä", "cave"),
    ]
    assert example.qrels == qrels["q0"]
    assert store.qrels("test") == qrels
    assert store.splits == ("test",)


def test_unknown_splits_and_qids_are_refused_with_what_there_is(tmp_path):
    store = built(tmp_path, collection(tmp_path / "c", queries(1, "test"), {"q0": {"d0": 1}}))
    with pytest.raises(LookupError, match="the data have no split 'train'; they have: test"):
        store.examples("train")
    with pytest.raises(LookupError, match="has no example with qid 'q9'"):
        store.example("q9")
    with pytest.raises(FileNotFoundError, match="there is no data store in"):
        Store(tmp_path / "elsewhere")


def test_texts_that_many_queries_share_are_stored_once(tmp_path):
    path = collection(tmp_path / "c", queries(50), {}, {f"q{n}": ["d0", "d1"] for n in range(50)})
    store = built(tmp_path, path)
    assert sum(len(store.examples(split)) for split in store.splits) == 50
    assert len((tmp_path / "run/data/documents.jsonl").read_text().splitlines()) == 2


def test_a_training_query_without_a_relevant_candidate_is_given_the_best_one_in_the_last_place(tmp_path):
    run = {f"q{n}": ["d0", "d1", "d2", "d3", "d4"] for n in range(4)}
    # q0 has one among its first two; q1 gets d4 (grade 2), not d3; q2 has d3, which the run ranks before d4, and not
    # d9, which it lacks; q3 has nothing judged relevant.
    qrels = {"q0": {"d1": 1}, "q1": {"d3": 1, "d4": 2}, "q2": {"d4": 1, "d3": 1, "d9": 1}, "q3": {"d0": 0}}
    path = collection(tmp_path / "c", [*queries(4), {"qid": "x", "text": "ice", "split": "dev"}], qrels, run)
    store = built(tmp_path, path, depth=2)
    shown = {example.qid: example.docids for example in store.examples("train")}
    assert shown == {"q0": ("d0", "d1"), "q1": ("d0", "d4"), "q2": ("d0", "d3"), "q3": ("d0", "d1")}
    assert [(c.rank, c.score) for c in store.example("q1").candidates] == [(1, 9.0), (2, 5.0)]


def test_a_short_list_gets_the_relevant_document_on_top_and_one_without_a_score_has_none(tmp_path):
    dev = {"qid": "x", "text": "ice", "split": "dev"}
    path = collection(tmp_path / "c", [*queries(1), dev], {"q0": {"d9": 1}}, {"q0": ["d0"], "x": ["d0"]})
    assert [(c.docid, c.score) for c in built(tmp_path, path, depth=3).example("q0").candidates] == [
        ("d0", 9.0),
        ("d9", None),
    ]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_held_out_candidates_are_never_filled_up(tmp_path, split):
    path = collection(tmp_path / "c", queries(1, split), {"q0": {"d4": 1}}, {"q0": ALL[:5]})
    assert built(tmp_path, path, depth=2).example("q0").docids == ("d0", "d1")


def test_filling_up_can_be_turned_off(tmp_path):
    dev = {"qid": "x", "text": "ice", "split": "dev"}
    path = collection(tmp_path / "c", [*queries(1), dev], {"q0": {"d4": 1}}, {"q0": ALL[:5], "x": ALL})
    store = built(tmp_path, path, depth=2, ensure_relevant=False)
    assert store.example("q0").docids == ("d0", "d1")


def test_candidates_come_from_bm25_where_the_source_brings_no_run(tmp_path):
    store = built(tmp_path, collection(tmp_path / "c", queries(3, "test"), {}))
    assert {example.qid: example.docids for example in store.examples("test")} == {
        "q0": ("d0",),
        "q1": ("d1",),
        "q2": ("d2",),
    }


def test_a_query_without_candidates_is_skipped_counted_and_still_judged_when_held_out(tmp_path, caplog):
    asked = [*queries(2, "test"), {"qid": "q9", "text": "zebra", "split": "test"}]
    path = collection(tmp_path / "c", asked, {"q0": {"d0": 1}, "q9": {"d3": 1}})
    store = built(tmp_path, path)
    assert [example.qid for example in store.examples("test")] == ["q0", "q1"]
    assert store.qrels("test") == {"q0": {"d0": 1}, "q9": {"d3": 1}}
    assert store.warnings == ("queries skipped for want of candidates: 1 (first: test, qid 'q9')",)
    assert store.warnings[0] in caplog.text


def test_candidates_without_a_document_are_left_out_and_a_run_of_another_corpus_is_refused(tmp_path):
    path = collection(tmp_path / "c", queries(1, "test"), {}, {"q0": ["d77", "d1"]})
    store = built(tmp_path, path)
    assert store.example("q0").docids == ("d1",)
    assert store.warnings == ("candidates left out, because no document has their docid: 1 (first: 'd77', 'q0')",)
    path = collection(tmp_path / "other", queries(1, "test"), {}, {"q0": ["d77"]})
    with pytest.raises(ValueError, match="the run belongs to other queries or another corpus"):
        built(tmp_path, path)


def test_a_limit_takes_usable_queries_and_a_smaller_one_takes_a_part_of_them(tmp_path):
    # Every third query is judged relevant where its run ends, every other third has no relevant document.
    asked = queries(60, "test")
    qrels = {f"q{n}": {"d5": int(n % 3 == 0)} for n in range(60)}
    path = collection(tmp_path / "c", asked, qrels, {f"q{n}": ALL[: n % 5] for n in range(60)})
    # Usable: n divisible by 3 and not by 5 (no candidates): 20 - 4 = 16
    large = [example.qid for example in built(tmp_path, path, test_queries=100).examples("test")]
    assert sorted(large) == sorted(f"q{n}" for n in range(60) if n % 3 == 0 and n % 5)
    small = [example.qid for example in built(tmp_path, path, test_queries=7).examples("test")]
    assert small == large[:7]
    assert len(built(tmp_path, path).examples("test")) == 48


def test_a_training_limit_takes_only_queries_that_can_teach(tmp_path):
    # q0: all candidates relevant; q1: no relevant one in reach, but one can be put in; q2: a relevant docid that is no
    # document; q3: two grades
    asked = [*queries(4), {"qid": "x", "text": "ice", "split": "dev"}]
    qrels = {"q0": {"d0": 1, "d1": 1}, "q1": {"d9": 1}, "q2": {"gone": 1}, "q3": {"d1": 1}}
    path = collection(tmp_path / "c", asked, qrels, {f"q{n}": ["d0", "d1"] for n in range(4)} | {"x": ["d0"]})
    taken = built(tmp_path, path, depth=2, train_queries=4).examples("train")
    assert sorted(example.qid for example in taken) == ["q1", "q3"]


def test_a_store_is_reopened_where_nothing_changed_and_built_again_where_something_did(tmp_path, caplog):
    path = collection(tmp_path / "c", queries(3, "test"), {"q0": {"d0": 1}})
    first = built(tmp_path, path)
    stamp = (tmp_path / "run/data/store.json").stat().st_mtime_ns
    assert built(tmp_path, path).fingerprint == first.fingerprint
    assert (tmp_path / "run/data/store.json").stat().st_mtime_ns == stamp
    assert "changed" not in caplog.text
    other = built(tmp_path, path, depth=3)
    assert other.fingerprint != first.fingerprint
    assert "the data or their configuration have changed" in caplog.text
    with (tmp_path / "c/qrels.tsv").open("a") as file:
        file.write("q1 0 d1 1\n")
    assert built(tmp_path, path, depth=3).qrels("test") == {"q0": {"d0": 1}, "q1": {"d1": 1}}


def test_what_a_killed_build_left_is_ignored_at_first_and_removed_later(tmp_path):
    left = tmp_path / "run/.data.killed"
    left.mkdir(parents=True)
    (left / "documents.jsonl").write_text("{")
    (tmp_path / "run/data").mkdir()
    (tmp_path / "run/data/test.jsonl").write_text("half")
    path = collection(tmp_path / "c", queries(1, "test"), {"q0": {"d0": 1}})
    assert built(tmp_path, path).example("q0").docids == ("d0",)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".data.killed", "data"]
    os.utime(left, times=(0, left.stat().st_mtime - _LEFT_BEHIND - 1))
    built(tmp_path, path, depth=3)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["data"]


def test_builds_at_the_same_time_agree_on_one_store(tmp_path):
    path = collection(tmp_path / "c", queries(20, "test"), {"q0": {"d0": 1}})
    found: list[int] = []
    threads = [Thread(target=lambda: found.append(len(built(tmp_path, path).examples("test")))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [20] * 6
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["data"]


def test_a_failed_build_leaves_the_store_that_was_there(tmp_path):
    path = collection(tmp_path / "c", queries(1, "test"), {"q0": {"d0": 1}})
    built(tmp_path, path)
    with (tmp_path / "c/queries.jsonl").open("a") as file:
        file.write("broken\n")
    with pytest.raises(ValueError, match=r"queries.jsonl:2: expected one JSON object; got 'broken'"):
        built(tmp_path, path)
    assert Store(tmp_path / "run/data").example("q0").docids == ("d0",)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("settings", "kind", "reason"),
    [
        ({"source": "colection"}, LookupError, "no source is named 'colection'.*Did you mean 'collection'"),
        ({"source": "collection"}, ValueError, "data.source=collection needs data.path; give data.path=VALUE"),
        ({"source": "trec", "params": {"queries": "q"}}, ValueError, "data.source=trec needs data.params.documents"),
        ({"source": "pydocs", "path": "/tmp"}, ValueError, "data.source=pydocs takes no data.path; got '/tmp'"),
        ({"source": "beir", "path": ".", "params": {"x": 1}}, ValueError, "source 'beir' has no parameter 'x'"),
    ],
)
def test_a_source_that_cannot_be_built_is_explained(tmp_path, settings, kind, reason):
    with pytest.raises(kind, match=reason):
        prepare(DataConfig(**settings), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_source_of_ones_own_is_a_file_with_a_dataclass(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from rl_rerank.data.records import Collection, Document, Query\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        "    word: str = 'ice'\n"
        "    def read(self):\n"
        "        queries = [Query('q1', self.word, 'test')]\n"
        "        return Collection({'d1': Document('', self.word)}, queries, {'q1': {'d1': 1}})\n"
        "    def state(self):\n"
        "        return '1'\n"
    )
    config = DataConfig(source=f"{tmp_path}/mine.py:Mine", params={"word": "lamp"})
    assert prepare(config, tmp_path / "data").example("q1").docids == ("d1",)


def test_gold_orders_scores_and_instructions_come_through(tmp_path):
    row = {
        "qid": "q0",
        "query": "ice",
        "candidates": [{"docid": d, "text": d} for d in ("a b", "c")],
        "qrels": {"c": 1},
        "instruction": "only frozen water",
        "order": ["c", "a b"],
        "scores": {"c": 7, "a b": 1.5},
        "split": "test",
    }
    plain = {"qid": "q1", "query": "cave", "candidates": [{"docid": "d", "text": "d"}], "split": "test"}
    jsonl(tmp_path / "data.jsonl", [row, plain])
    config = DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl"), protocol="bright")
    store = prepare(config, tmp_path / "data")
    gold, without = store.examples("test")
    assert (gold.instruction, gold.order, gold.scores) == (
        "only frozen water",
        ("c", "a%20b"),
        {"c": 7.0, "a%20b": 1.5},
    )
    assert (without.instruction, without.order, without.scores) == ("", None, None)
    assert store.example("q0") == gold


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("order", "c", "order must be a list of docids, best first"),
        ("order", ["c", "c"], "order names a docid more than once"),
        ("scores", [1], "scores must be an object docid -> number"),
        ("scores", {"c": "much"}, "scores, docid 'c': score must be a finite number; got 'much'"),
    ],
)
def test_gold_that_is_none_names_its_line(tmp_path, key, value, says):
    jsonl(
        tmp_path / "data.jsonl", [{"qid": "q", "query": "x", "candidates": [{"docid": "c", "text": "c"}], key: value}]
    )
    config = DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl"))
    with pytest.raises(ValueError, match=says) as caught:
        prepare(config, tmp_path / "data")
    assert "data.jsonl:1" in str(caught.value)


def test_the_group_of_a_query_is_kept_also_where_nothing_was_found_for_it(tmp_path):
    rows = [
        {"qid": "q0", "text": "ice", "split": "test", "group": "caves"},
        {"qid": "q1", "text": "zzz", "split": "test", "group": "nowhere"},
        {"qid": "q2", "text": "rock", "split": "test"},
    ]
    path = collection(tmp_path / "c", rows, {f"q{n}": {"d1": 1} for n in range(3)})
    store = built(tmp_path, path)
    assert {example.qid: example.group for example in store.examples("test")} == {"q0": "caves", "q2": ""}
    assert store.groups("test") == {"q0": "caves", "q1": "nowhere"}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [("title", [("Ice", ""), ("Cave", ""), ("", "moss")]), ("text", [("", "cold"), ("Cave", ""), ("", "moss")])],
)
def test_of_documents_only_the_title_or_the_text_is_known(tmp_path, fields, shown):
    corpus = [{"docid": "d1", "title": "Ice", "text": "cold"}, {"docid": "d2", "title": "Cave", "text": ""}]
    path = collection(tmp_path / "c", queries(1, "test"), {"q0": {"d1": 1}}, {"q0": ["d1", "d2", "d3"]})
    jsonl(tmp_path / "c/corpus.jsonl", [*corpus, {"docid": "d3", "text": "moss"}])
    [example] = built(tmp_path, path, fields=fields).examples("test")
    assert [(c.title, c.text) for c in example.candidates] == shown


def test_bm25_searches_only_what_is_known(tmp_path):
    path = collection(tmp_path / "c", [{"qid": "q", "text": "titel", "split": "test"}], {"q": {"d1": 1}})
    with_titles = built(tmp_path, path, fields="title")
    assert len(with_titles.example("q").candidates) == 10
    assert prepare(DataConfig(source="collection", path=path, fields="text"), tmp_path / "text/data").splits == ()


def test_a_fold_is_another_store_and_bad_ones_are_refused(tmp_path):
    path = collection(tmp_path / "c", [{"qid": f"q{n}", "text": WORDS[n]} for n in range(9)], {"q0": {"d0": 1}})
    stores = [
        prepare(DataConfig(source="collection", path=path, folds=3, fold=n), tmp_path / f"{n}/data") for n in range(3)
    ]
    assert [store.size("test") for store in stores] == [3, 3, 3]
    assert len({store.fingerprint for store in stores}) == 3
    with pytest.raises(ValueError, match=r"data\.folds must be at least 3, for test, dev and train; got 2"):
        DataConfig(folds=2)
    with pytest.raises(ValueError, match=r"data.fold must be from 0 to data.folds - 1; got 3 of 3 folds"):
        DataConfig(folds=3, fold=3)
