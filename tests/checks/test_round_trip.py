"""The check of Rankify's round trip, on runs that an oracle ranked and on files with a fault."""

import json
from pathlib import Path

import pytest
from support.checked_runs import findings, made, ranked

from rl_rerank.config import Config, DataConfig

ITEM = {
    "question": "who wrote “Ice”?",
    "answers": ["Kavan", "A. Kavan"],
    "query_id": 17,
    "ctxs": [
        {"score": 12, "has_answer": False, "id": 4, "text": "snow\u2028 and ice", "title": ""},
        {"score": 7.25, "has_answer": True, "id": "x5", "text": "Anna Kavan wrote it.", "title": "Ice (novel)"},
        {"score": None, "has_answer": True, "id": "6", "text": "a novel", "title": "ä"},
    ],
}


def asked(tmp_path: Path, items: list, monkeypatch, **params) -> Config:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(items))
    data = DataConfig(source="rankify", path=str(path), params={"split": "test", **params})
    config = Config(run_dir=str(tmp_path / "run"), data=data)
    ranked(config, monkeypatch, "reranked", "listwise", {"window": 3})
    return config


def test_data_of_any_source_go_there_and_back(tmp_path, monkeypatch):
    config = made(tmp_path, queries=20)
    ranked(config, monkeypatch, "sorted", "listwise", {"window": 12})
    same, ordered, answered = findings(config, round_trip={"stage": "sorted", "top": [1, 3]})
    # Six fields: question, answers, query_id, ctxs, split, qrels. Grades above 1 stand in the last.
    assert same == (True, "60 of 60 fields of 10 questions")
    assert ordered == (True, "10 of 10 questions")
    assert answered[0]


def test_their_own_file_goes_there_and_back(tmp_path, monkeypatch):
    config = asked(tmp_path, [ITEM, {**ITEM, "query_id": "b"}], monkeypatch)
    same, ordered, answered = findings(config, round_trip={"stage": "reranked", "top": [1]})
    assert same == (True, "8 of 8 fields of 2 questions")
    assert ordered == (True, "2 of 2 questions")
    assert answered[0]


def test_a_field_that_changes_is_shown_with_its_place(tmp_path, monkeypatch):
    untitled = [{**ITEM["ctxs"][0], "title": None}]
    config = asked(tmp_path, [{**ITEM, "ctxs": untitled + ITEM["ctxs"][1:]}], monkeypatch)
    [(passed, found), *_] = findings(config, round_trip={"stage": "reranked", "top": [1]})
    assert not passed
    assert found.startswith("3 of 4 fields of 1 questions; first: question 1: ctxs, ")
    assert '"title": null' in found.partition("became")[0]


def test_judgments_other_than_those_of_the_file_are_found(tmp_path, monkeypatch):
    (tmp_path / "qrels.txt").write_text("17 0 4 9\n17 0 x5 0\n17 0 6 0\n")
    config = asked(tmp_path, [ITEM], monkeypatch, qrels=str(tmp_path / "qrels.txt"))
    # The oracle puts document 4 first, which has no answer by the file.
    same, ordered, answered = findings(config, round_trip={"stage": "reranked", "top": [1]})
    assert same[0] and ordered[0]
    assert answered == (False, "0.000 and 1.000 at 1")


def test_a_stage_that_is_not_there_is_refused_before_any_work(tmp_path):
    config = made(tmp_path, queries=4)
    with pytest.raises(LookupError, match="a check names the rerank stage 'nowhere'"):
        findings(config, round_trip={"stage": "nowhere"})
