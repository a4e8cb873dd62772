"""RankLLM's and Rankify's files: as sources, and from one to the other."""

import gzip
import json
from pathlib import Path

import pytest

from rl_rerank.cli.main import main
from rl_rerank.config import ConvertFiles, DataConfig, build
from rl_rerank.data import prepare
from rl_rerank.data.convert import convert
from rl_rerank.data.records import Document, Query
from rl_rerank.data.sources.jsonl import JsonLines
from rl_rerank.data.sources.rankify import Rankify
from rl_rerank.data.sources.rankllm import RankLLM

REQUESTS = [
    {
        "query": {"text": "ice cave", "qid": "q1"},
        "candidates": [
            {"docid": "d1", "score": 9.5, "doc": {"title": "Ice", "text": "cold"}},
            {"docid": "d2", "score": 8, "doc": {"contents": "a cave", "url": "http://x", "title": ""}},
        ],
    },
    {"query": {"text": "rock", "qid": 7}, "candidates": [{"docid": 3, "score": 1.0, "doc": {"segment": "ä wall"}}]},
]
GROUPED = [{"qid": "q", "query": "ice", "group": "caves", "candidates": [{"docid": "d", "text": "x"}]}]
QUESTIONS = [
    {
        "question": "What is ice?",
        "answers": ["water", "frozen water"],
        "query_id": "a",
        "ctxs": [
            {"score": 2.5, "has_answer": True, "id": 11, "text": "cold", "title": "Ice"},
            {"score": None, "has_answer": False, "id": "12", "text": "a cave", "title": ""},
            {"score": 1.0, "has_answer": None, "id": "13", "text": "rock", "title": "R"},
        ],
    }
]


def written(path: Path, rows: list) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows) if ".jsonl" in path.suffixes else json.dumps(rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def converted(tmp_path: Path, rows: list, *formats: str, name: str = "in.jsonl", run: str | None = None) -> list:
    """The rows after a chain of conversions."""
    source = written(tmp_path / name, rows)
    for number, form in enumerate(formats):
        target = str(tmp_path / f"out{number}.jsonl")
        convert(ConvertFiles(input=source, output=target, format=form, run=run))
        source = target
    return [json.loads(line) for line in Path(source).read_text().splitlines()]


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.jsonl.gz", "r.json.gz"])
def test_rankllms_requests_are_a_collection(tmp_path, name):
    found = RankLLM(written(tmp_path / name, REQUESTS), split="test").read()
    assert list(found.queries) == [Query("q1", "ice cave", "test"), Query("7", "rock", "test")]
    assert found.documents == {"d1": Document("Ice", "cold"), "d2": Document("", "a cave"), "3": Document("", "ä wall")}
    assert found.runs == {"q1": [("d1", 9.5), ("d2", 8.0)], "7": [("3", 1.0)]}


def test_judgments_come_from_the_file_or_from_a_trec_file(tmp_path):
    rows = [{**REQUESTS[0], "qrels": {"d2": 3}}, REQUESTS[1]]
    path = written(tmp_path / "r.json", rows)
    assert RankLLM(path).read().qrels == {"q1": {"d2": 3}, "7": {}}
    (tmp_path / "qrels").write_text("7 0 3 1\n")
    judged = RankLLM(path, qrels=str(tmp_path / "qrels"))
    assert judged.read().qrels == {"q1": {}, "7": {"3": 1}}
    assert judged.state() != RankLLM(path).state()


def test_rankifys_questions_are_a_collection(tmp_path):
    unnumbered = {"question": "Who?", "ctxs": QUESTIONS[0]["ctxs"][:1]}
    found = Rankify(written(tmp_path / "r.json", [*QUESTIONS, unnumbered])).read()
    assert [(q.qid, q.text) for q in found.queries] == [("a", "What is ice?"), ("2", "Who?")]
    assert found.runs is not None
    assert found.runs["a"] == [("11", 2.5), ("12", None), ("13", 1.0)]
    assert found.qrels == {"a": {"11": 1, "12": 0}, "2": {"11": 1}}
    assert found.documents["13"] == Document("R", "rock")


def test_both_are_sources_of_an_experiment(tmp_path):
    path = written(tmp_path / "r.jsonl", REQUESTS)
    config = DataConfig(source="rankllm", path=path, params={"split": "test"})
    assert prepare(config, tmp_path / "data").example("q1").docids == ("d1", "d2")
    path = written(tmp_path / "q.json", QUESTIONS)
    config = DataConfig(source="rankify", path=path, params={"split": "test"})
    assert prepare(config, tmp_path / "more").example("a").candidates[0].score == 2.5


@pytest.mark.parametrize("chain", [["rankllm"], ["jsonl", "rankllm"], ["rankify", "rankllm"]])
def test_rankllms_requests_come_back_whole(tmp_path, chain):
    judged = [{**REQUESTS[0], "qrels": {"d2": 3, "elsewhere": 1}}, REQUESTS[1]]
    back = converted(tmp_path, judged, *chain)
    assert [{key: row[key] for key in ("query", "candidates")} for row in back] == [
        {key: row[key] for key in ("query", "candidates")} for row in judged
    ]
    assert back[0]["qrels"] == {"d2": 3, "elsewhere": 1}


@pytest.mark.parametrize("chain", [["rankify"], ["jsonl", "rankify"]])
def test_rankifys_questions_come_back_whole(tmp_path, chain):
    assert converted(tmp_path, QUESTIONS, *chain) == QUESTIONS


def test_rankifys_questions_come_back_from_rankllm_with_a_score_for_every_context(tmp_path):
    back = converted(tmp_path, QUESTIONS, "rankllm", "rankify")
    # One of the three has no score: all are scored by rank.
    scored = [{**c, "score": s} for c, s in zip(QUESTIONS[0]["ctxs"], (3.0, 2.0, 1.0), strict=True)]
    assert back == [{**QUESTIONS[0], "ctxs": scored}]


def test_our_examples_come_back_whole(tmp_path):
    row = {
        "qid": "q",
        "query": "x",
        "candidates": [{"docid": "a", "title": "T", "text": "t", "score": 0.25}],
        "qrels": {"a": 2},
        "excluded": ["z"],
        "split": "dev",
    }
    source = JsonLines(written(tmp_path / "ours.jsonl", [row])).read()
    for form in ("rankllm", "rankify"):
        [back] = converted(tmp_path, [row], form, "jsonl", name="ours.jsonl")
        assert back == row
        assert JsonLines(written(tmp_path / "back.jsonl", [back])).read() == source


def test_a_runs_order_is_written_as_each_format_has_it(tmp_path):
    (tmp_path / "run").write_text("q1 Q0 d1 2 0.5 x\nq1 Q0 d2 1 0.75 x\n")
    [result] = converted(tmp_path, REQUESTS, "rankllm", run=str(tmp_path / "run"))
    assert [(c["docid"], c["score"]) for c in result["candidates"]] == [("d2", 0.75), ("d1", 0.5)]
    assert result["candidates"][0]["doc"] == REQUESTS[0]["candidates"][1]["doc"]
    (tmp_path / "run").write_text("a Q0 13 1 4 x\na Q0 11 2 3 x\na Q0 12 3 2 x\n")
    [result] = converted(tmp_path, QUESTIONS, "rankify", run=str(tmp_path / "run"))
    assert result["ctxs"] == QUESTIONS[0]["ctxs"]
    assert [(c["id"], c["score"]) for c in result["reranked_ctxs"]] == [("13", 4.0), (11, 3.0), ("12", 2.0)]
    (tmp_path / "run").write_text("q1 Q0 d9 1 4 x\n")
    with pytest.raises(ValueError, match="docid 'd9' is ranked and is no candidate"):
        converted(tmp_path, REQUESTS, "rankllm", run=str(tmp_path / "run"))


def test_a_runs_data_folder_is_converted_with_its_rankings(tmp_path, capsys):
    path = written(tmp_path / "r.jsonl", REQUESTS)
    prepare(DataConfig(source="rankllm", path=path, params={"split": "test"}), tmp_path / "run/data")
    (tmp_path / "run.trec").write_text("q1 Q0 d2 1 2 x\nq1 Q0 d1 2 1 x\n")
    arguments = [
        f"input={tmp_path}/run/data",
        f"output={tmp_path}/out.json",
        "format=rankllm",
        f"run={tmp_path}/run.trec",
    ]
    assert main(["convert", *arguments]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out.json: 1 queries\n"
    [result] = json.loads((tmp_path / "out.json").read_text())
    assert [(c["docid"], c["doc"]["text"]) for c in result["candidates"]] == [("d2", "a cave"), ("d1", "cold")]


@pytest.mark.parametrize(
    ("source", "item", "reason"),
    [
        (RankLLM, {"query": "ice", "candidates": []}, "query must be an object with text and qid; got 'ice'"),
        (RankLLM, {"query": {"text": "x", "qid": 1}}, "candidates must be a list of objects; got None"),
        (
            RankLLM,
            {"query": {"text": "x", "qid": 1}, "candidates": [{"docid": 1, "doc": {}}]},
            "candidates 1 must have",
        ),
        (Rankify, {"ctxs": []}, "question must be a string; got None"),
        (Rankify, {"question": "x", "ctxs": [{"id": 1, "score": 2}]}, "ctxs 1 must have an id and a text"),
        (Rankify, {"question": "x", "ctxs": [3]}, "ctxs 1 must be an object; got 3"),
    ],
)
def test_a_broken_object_is_named_with_its_place(tmp_path, source, item, reason):
    for name, place in (("b.jsonl", "b.jsonl:1"), ("b.json", "b.json: item 1")):
        with pytest.raises(ValueError, match=f"{place}: {reason}"):
            source(written(tmp_path / name, [item])).read()


def test_a_file_that_is_no_array_is_named(tmp_path):
    (tmp_path / "b.json").write_text('[{"a": 1},\n}')
    with pytest.raises(ValueError, match=r"b.json:2: expected a JSON array of objects"):
        RankLLM(str(tmp_path / "b.json")).read()
    (tmp_path / "b.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="expected a JSON array of objects; got"):
        RankLLM(str(tmp_path / "b.json")).read()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"format": "trec"}, "format must be one of"), ({"output": "a.json"}, "must end in .jsonl")],
)
def test_a_conversion_that_makes_no_sense_is_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        build(ConvertFiles, {"input": "a", "output": "b.jsonl", "format": "jsonl", **settings})


@pytest.mark.parametrize("form", ["rankllm", "rankify"])
def test_the_group_of_a_query_goes_there_and_back(tmp_path, form):
    [row] = converted(tmp_path, GROUPED, form, "jsonl")
    assert row["group"] == "caves"
    assert JsonLines(written(tmp_path / "again.jsonl", [row])).read().queries[0].group == "caves"
