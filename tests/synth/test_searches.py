"""Simulated searches and Baidu-ULTR's files."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.synth_runs import apply

from rl_rerank.config import DataConfig
from rl_rerank.data import prepare
from rl_rerank.metrics.relevance import ndcg
from rl_rerank.ranking.long_documents import SENTENCE_END, quite
from rl_rerank_synth.baidu_ultr import FEATURES, BaiduULTR
from rl_rerank_synth.searches import PROPERTIES, Behaviour, Searches, after_clicks, behave

SMALL = {"judged": 30, "clicked": 30, "dev": 3, "test": 5}
BEHAVIOUR = ["rank", "click_rate", "skip_rate", "last_click_rate", "dwell"]


def test_a_grade_is_the_number_of_properties_that_query_and_document_share():
    made = Searches(**SMALL).read()
    words = {word for some in PROPERTIES for word in some}
    assert len(words) == sum(map(len, PROPERTIES))  # no word is of two kinds
    for query in made.queries:
        wanted = set(query.text.replace(",", "").split())
        for docid, _ in made.runs[query.qid]:
            sentences = SENTENCE_END.split(made.documents[docid].text)
            [place] = [n for n, sentence in enumerate(sentences) if sentence.startswith("On sale")]
            shared = len(wanted & set(sentences[place].strip(".").replace(",", "").split()))
            assert place == 6 and not any(words & set(s.lower().strip(".").split()) for s in sentences[:6])
            assert made.qrels.get(query.qid, {}).get(docid, shared) == shared
            if shared:
                assert quite(query.text, made.documents[docid].text, {}, 1, 0.5) == sentences[place]


def test_queries_with_clicks_alone_reach_training_without_judgments(tmp_path):
    store = prepare(DataConfig(source="searches", depth=10, params=SMALL), tmp_path / "store")
    train = list(store.examples("train"))
    assert len(train) == 60 and sum(not example.qrels for example in train) == 30
    assert len(list(store.examples("test"))) == 5 and all(example.qrels for example in store.examples("test"))
    assert Searches(**SMALL).read() == Searches(**SMALL).read() != Searches(**SMALL, seed=2).read()


def test_features_of_behaviour_by_hand():
    clicked = np.array([[True, False, True], [False, False, True]])
    dwell = np.array([[30.0, 0, 50.0], [0, 0, 20.0]])
    first, second, third = after_clicks(Behaviour(clicked, dwell))
    # The first is clicked once, and skipped once; the second skipped twice; the third is the last click twice.
    assert first == dict(zip(BEHAVIOUR, (1, 0.5, 0.5, 0, 30), strict=True))
    assert second == dict(zip(BEHAVIOUR, (2, 0, 1, 0), strict=False))
    assert third == dict(zip(BEHAVIOUR, (3, 1, 0, 1, 35), strict=True))


def test_people_click_at_the_top_and_stay_where_it_is_relevant():
    rng = np.random.default_rng(0)
    grades = np.array([0, 4] * 5)
    seen = [behave(grades, 50, rng) for _ in range(40)]
    rates = np.mean([one.clicked.mean(0) for one in seen], axis=0)
    assert rates[0] > rates[4] > rates[8] and rates[1] > rates[5] > rates[9]
    dwell = [np.concatenate([one.dwell[:, column][one.clicked[:, column]] for one in seen]).mean() for column in (0, 1)]
    # exp(mean + .7^2 / 2) around 8 and 64 seconds
    assert dwell == [pytest.approx(8 * np.exp(0.245), rel=0.1), pytest.approx(64 * np.exp(0.245), rel=0.1)]


def test_calibrated_relevance_orders_clicked_queries_better_than_clicks(tmp_path):
    pytest.importorskip("sklearn")
    params = {"judged": 60, "clicked": 40, "dev": 1, "test": 1}
    texts = Searches(**params).read().documents
    store = prepare(DataConfig(source="searches", depth=10, params=params), tmp_path / "store")
    made, _ = apply(list(store.examples("train")), "calibrate", features=BEHAVIOUR)
    labelled = [example for example in made if "calibrate" in example.provenance]
    assert len(made) == 100 and len(labelled) == 40
    grades = {
        example.qid: {c.docid: shared(example.query, texts[c.docid].text) for c in example.candidates}
        for example in labelled
    }

    def by_clicks(e):
        return sorted(e.docids, key=lambda docid: -e.candidate(docid).features["click_rate"])

    found = np.mean([ndcg(list(e.order), grades[e.qid], k=10) for e in labelled])
    clicks = np.mean([ndcg(by_clicks(e), grades[e.qid], k=10) for e in labelled])
    assert found > clicks + 0.03
    assert {grade for e in labelled for grade in e.qrels.values()} <= {0, 1, 2, 3, 4}


def shared(query: str, text: str) -> int:
    [sentence] = [s for s in SENTENCE_END.split(text) if s.startswith("On sale")]
    return len(set(query.replace(",", "").split()) & set(sentence.strip(".").replace(",", "").split()))


def test_the_calibrator_wants_one_source_of_numbers(tmp_path):
    with pytest.raises(ValueError, match="either path or features must be given"):
        apply([], "calibrate")
    store = prepare(DataConfig(source="searches", depth=10, params=SMALL), tmp_path / "store")
    examples = list(store.examples("train"))
    first = examples[0]
    spoilt = replace(first, candidates=(replace(first.candidates[0], features={"rank": "high"}), *first.candidates[1:]))
    with pytest.raises(ValueError, match=rf"qid '{first.qid}', .* feature rank must be a number; got 'high'"):
        apply([spoilt, *examples[1:]], "calibrate", features=["rank"])
    with pytest.raises(ValueError, match="no candidate has the feature clicks; they have click_rate, dwell,"):
        apply(examples, "calibrate", features=["rank", "clicks"])


def shown(rank: int, title: str, click: int = 0, **values: float) -> str:
    row = ["0"] * 32
    row[:6] = [str(rank), f"md5{title}", title.replace(" ", "\x01"), f"7\x01{rank}", "0", str(click)]
    for name, value in values.items():
        row[FEATURES[name]] = str(value)
    return "\t".join(row)


def written(folder: Path, sessions: list[str], judgments: list[str]) -> BaiduULTR:
    with gzip.open(folder / "part-00001.gz", "wt") as file:
        file.write("".join(line + "\n" for line in sessions))
    (folder / "nips_annotation_data_0522.txt").write_text("".join(line + "\n" for line in judgments))
    return BaiduULTR(str(folder))


def test_baidus_files_become_examples(tmp_path):
    sessions = [
        "11\t3\x014\t",
        shown(1, "1 2", 1, dwell=30, skip_rate=0),
        shown(2, "5 6"),
        "12\t9\t",
        shown(1, "8"),
        "13\t3\x014\t9\x019",  # the first query again
        shown(2, "1 2", 0, dwell=10, skip_rate=1),
    ]
    judgments = ["0\t3\x014\t1\x012\t7\x011\t3\t0", "0\t3\x014\t6\t7\t1\t0", "1\t4\t6\t7\t0\t9"]
    made = written(tmp_path, sessions, judgments).read()
    by_text = {query.text: query for query in made.queries}
    assert by_text.keys() == {"3 4", "9", "4"} and by_text["9"].split == "train"
    judged, clicked = by_text["3 4"].qid, by_text["9"].qid
    assert sorted(made.qrels[judged].values()) == [1, 3] and clicked not in made.qrels
    assert {docid for docid, _ in made.runs[judged]} == made.qrels[judged].keys()
    [docid] = [docid for docid, grade in made.qrels[judged].items() if grade == 3]
    assert made.documents[docid] == ("1 2", "7 1", ())
    means = made.features[judged][docid]
    assert means == {
        **dict.fromkeys(FEATURES, 0.0),
        "shown": 2,
        "rank": 1.5,
        "click_rate": 0.5,
        "skip_rate": 0.5,
        "dwell": 20.0,
    }
    assert [made.documents[d].title for d, _ in made.runs[clicked]] == ["8"]
    limited = BaiduULTR(str(tmp_path), sessions=1).read()
    assert clicked not in {query.qid for query in limited.queries}


def test_baidus_queries_are_divided_by_their_text(tmp_path):
    judgments = [f"{n}\t{n}\t{d}\t7\t{d}\t0" for n in range(60) for d in range(3)]
    made = written(tmp_path, ["1\t900\t", shown(1, "1")], judgments).read()
    counts = {split: sum(query.split == split for query in made.queries) for split in ("train", "dev", "test")}
    assert counts["train"] > 30 and counts["dev"] >= 2 and counts["test"] >= 6
    again = written(tmp_path, ["1\t900\t", shown(1, "1")], judgments[30:]).read()
    splits = {query.qid: query.split for query in made.queries}
    assert all(splits[query.qid] == query.split for query in again.queries)


@pytest.mark.parametrize(
    ("sessions", "judgments", "says"),
    [
        ([shown(1, "1")], [], r"part-00001\.gz:1: a document stands before the first query"),
        (["1\t2\t", "1\t2\t3\t4"], [], r"part-00001\.gz:2: expected a query of 3 columns or a document of 32; got 4"),
        (["1\t \t"], [], r"part-00001\.gz:1: the query is empty"),
        (["1\t2\t", shown(1, "1", dwell=-3)], [], r"part-00001\.gz:2: dwell must be a number of at least 0; got '-3'"),
        (["1\t2\t", shown(1, "1", click="x")], [], r"part-00001\.gz:2: click_rate must be a number .* got 'x'"),
        ([], ["0\t1\t2\t3\t4"], r"0522\.txt:1: expected 6 columns"),
        ([], ["0\t1\t2\t3\t5\t0"], r"0522\.txt:1: the label must be a whole number from 0 to 4; got '5'"),
        ([], ["0\t1\t2\t3\t1\t0", "0\t1\t2\t3\t2\t0"], r"0522\.txt:2: the label is 2, and the same title has 1"),
    ],
)
def test_what_is_malformed_in_baidus_files_is_refused_by_its_line(tmp_path, sessions, judgments, says):
    with pytest.raises(ValueError, match=says):
        written(tmp_path, sessions, judgments).read()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no session file part-\*"):
        BaiduULTR(str(tmp_path)).read()
    (tmp_path / "part-0").write_text("1\t2\t\n")
    with pytest.raises(FileNotFoundError, match="nips_annotation_data_0522"):
        BaiduULTR(str(tmp_path)).read()


def test_the_simulators_parameters_are_checked():
    with pytest.raises(ValueError, match="sessions must be at least 1; got 0"):
        Searches(sessions=0)
    with pytest.raises(ValueError, match="lead must be at least 0; got -1"):
        Searches(lead=-1)
    assert json.dumps(Searches(**SMALL).read().features)
