"""Behaviour logs: position bias, calibration, screens and viewers."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synth_runs import apply, example

from rl_rerank.config import DataConfig
from rl_rerank.data import prepare
from rl_rerank.data.records import Collection, Document, Omissions
from rl_rerank.metrics import ndcg
from rl_rerank_synth import click_log
from rl_rerank_synth.calibrate import fit
from rl_rerank_synth.carousel_records import Place, examination
from rl_rerank_synth.click_log import Session
from rl_rerank_synth.screens import Screens
from rl_rerank_synth.stories import Event, Story, parsed, written
from rl_rerank_synth.viewers import Viewers, queries

THETA = [1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1]


def simulated(num_queries: int, times: int, seed: int = 0) -> tuple[list[Session], dict[str, dict[str, int]]]:
    """Clicks at THETA times relevance (.1, .5, .9 by grade) on lists of two production rankers, and the true grades."""
    rng = random.Random(seed)
    sessions, truth = [], {}
    for n in range(num_queries):
        qid, docids = f"q{n}", [f"d{n}-{i}" for i in range(10)]
        truth[qid] = {docid: rng.choice([0, 0, 0, 1, 2]) for docid in docids}
        orders = [rng.sample(docids, 10) for _ in range(2)]
        for _ in range(times):
            shown = rng.choices(orders, [0.8, 0.2])[0]
            clicked = [
                docid
                for rank, docid in enumerate(shown)
                if rng.random() < THETA[rank] * (0.1 + 0.4 * truth[qid][docid])
            ]
            sessions.append(Session(qid, tuple(shown), frozenset(clicked)))
    return sessions, truth


def quality(scores: dict[str, dict[str, float]], truth: dict[str, dict[str, int]]) -> float:
    judged = {qid: grades for qid, grades in truth.items() if any(grades.values())}
    return statistics.fmean(ndcg(scores[qid], grades, k=10) for qid, grades in judged.items())


@pytest.mark.slow
def test_position_bias_is_found_and_clicks_without_it_rank_better():
    sessions, truth = simulated(300, 300)
    log = click_log.count(sessions)
    found = click_log.propensities(log, 10)
    assert found[0] == 1.0
    assert max(abs(a - b) for a, b in zip(found, THETA, strict=True)) < 0.05
    naive = quality(click_log.relevance(log, [1.0] * 10, floor=0.05), truth)
    debiased = quality(click_log.relevance(log, found, floor=0.05), truth)
    known = quality(click_log.relevance(log, THETA, floor=0.05), truth)
    assert debiased > naive + 0.02
    assert abs(debiased - known) < 0.01


def test_ips_is_a_mean_of_clicks_weighted_by_one_over_propensity():
    sessions = [
        Session("q", ("a", "b"), frozenset("a")),
        Session("q", ("b", "a"), frozenset("a")),
        Session("q", ("b", "a"), frozenset()),
    ]
    # a: shown 3 times, a click at rank 1 counts 1 / 1 and one at rank 2 counts 1 / .25: 5 / 3.
    assert click_log.relevance(click_log.count(sessions), [1.0, 0.25], floor=0.05) == {"q": {"a": 5 / 3, "b": 0.0}}
    assert click_log.relevance(click_log.count(sessions), [1.0, 0.25], floor=0.5)["q"]["a"] == 1.0


def test_a_log_that_shows_every_document_at_one_rank_cannot_tell_bias_from_relevance():
    log = click_log.count([Session("q", ("a", "b"), frozenset("a"))])
    with pytest.raises(ValueError, match="shows no document at rank 1 that it also shows at another"):
        click_log.propensities(log, 2)


def test_clicks_become_gold_scores_and_unseen_candidates_go(tmp_path):
    rows = [{"qid": "q", "docids": ["a", "b"], "clicks": ["b"]}, {"qid": "q", "docids": ["a", "b"], "clicks": []}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [example("q", {"a": 0, "b": 0, "c": 1}), example("r", {"a": 1})]
    [made], counts = apply(given, "clicks", path=str(tmp_path / "log.jsonl"), propensities=[1.0, 0.5])
    # b: one of two at rank 2, 1 / .5 / 2
    assert (made.docids, made.order, made.scores, made.qrels) == (
        ("a", "b"),
        ("b", "a"),
        {"a": 0.0, "b": 1.0},
        {"a": 0, "b": 1},
    )
    assert counts == {"documents": 1, "not_in_log": 1}
    (tmp_path / "bad.jsonl").write_text('{"qid": "q", "docids": ["a"], "clicks": ["z"]}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl:1: 'z' was clicked and is none of the documents shown"):
        apply(given, "clicks", path=str(tmp_path / "bad.jsonl"))


def after_clicks(num_pairs: int, seed: int) -> list[tuple[dict[str, float], int]]:
    """Post-click features of pairs with grades 0..4: clicks come from attractive titles, long dwell from relevance."""
    rng = random.Random(seed)
    rows = []
    for _ in range(num_pairs):
        grade, attractive = rng.randrange(5), rng.random()
        shown = 200
        clicks = sum(rng.random() < 0.1 + 0.6 * attractive + 0.04 * grade for _ in range(shown))
        long = sum(rng.random() < 0.1 + 0.2 * grade for _ in range(clicks))
        dwell = rng.gauss(20 + 20 * grade, 15)
        rows.append(({"clicks": clicks, "skips": shown - clicks, "long_clicks": long, "dwell": dwell}, grade))
    return rows


def test_a_calibrator_knows_grades_better_than_clicks_do():
    pytest.importorskip("sklearn")
    train, test = after_clicks(400, 1), after_clicks(400, 2)
    model = fit([values for values, _ in train], [grade for _, grade in train], 0)
    truth = [grade for _, grade in test]
    calibrated, raw = model([values for values, _ in test]), [values["clicks"] for values, _ in test]
    assert correlation(calibrated, truth) > 0.85 > 0.4 > correlation(raw, truth)


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    return statistics.correlation(a, b)


def test_the_calibrator_learns_from_judged_queries_and_labels_the_others(tmp_path):
    pytest.importorskip("sklearn")
    rows, examples = after_clicks(300, 3), []
    with (tmp_path / "features.jsonl").open("w") as file:
        for n in range(30):
            mine = {f"d{i}": rows[10 * n + i] for i in range(10)}
            for docid, (values, _) in mine.items():
                file.write(json.dumps({"qid": f"q{n}", "docid": docid, **values}) + "\n")
            grades = {docid: grade for docid, (_, grade) in mine.items()}
            examples.append((example(f"q{n}", grades), grades))
    shown = [e if n < 20 else replace(e, qrels={}) for n, (e, _) in enumerate(examples)]
    extra = replace(example("new", {"x": 0, "y": 1}), qrels={})
    made, counts = apply([*shown, extra], "calibrate", path=str(tmp_path / "features.jsonl"))
    assert made[:20] == shown[:20] and len(made) == 30 and counts["without_features"] == 1
    found = statistics.fmean(ndcg(e.order or (), examples[n][1], k=10) for n, e in enumerate(made) if n >= 20)
    clicks = statistics.fmean(
        ndcg({f"d{i}": rows[10 * n + i][0]["clicks"] for i in range(10)}, examples[n][1], k=10) for n in range(20, 30)
    )
    assert found > clicks + 0.05
    with pytest.raises(ValueError, match="learns from judged pairs of at least two grades"):
        apply([extra], "calibrate", path=str(tmp_path / "features.jsonl"))


def screens(folder: Path, feedback: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two screens of 3 carousels by 6 items."""
    shown = [
        {
            "screen": s,
            "task": "free",
            "carousels": [
                {"row": r, "genre": f"g{s}{r}", "movies": [f"m{s}{r}{c}" for c in range(6)]} for r in range(1, 4)
            ],
        }
        for s in (1, 2)
    ]
    docids = [docid for s in shown for c in s["carousels"] for docid in c["movies"]]
    folder.mkdir(exist_ok=True)
    for name, rows in {
        "corpus": [{"docid": d, "title": d, "text": f"about {d}"} for d in docids],
        "screens": shown,
        **({"feedback": feedback} if feedback else {}),
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return shown


def test_screens_become_records_and_records_screens(tmp_path):
    seen = {
        "user": "u1",
        "screen": 2,
        "clicked": "m211",
        "fixations": {"m212": 1, "m213": 3, "m211": 1},
        "profile": "likes g21",
    }
    shown = screens(tmp_path / "s", [{**seen, "split": "train"}, {**seen, "user": "u2", "split": "train"}])
    data = DataConfig(source="screens", path=str(tmp_path / "s"), depth=150, params={"excluded": ["u2/2"]})
    [made] = prepare(data, tmp_path / "store").examples("train")
    assert (made.qid, made.query) == ("u1-2", "likes g21. Task: free")
    rows: dict[int, list[str]] = {}
    for candidate in sorted(made.candidates, key=lambda c: (c.features["row"], c.features["column"])):
        rows.setdefault(int(candidate.features["row"]), []).append(candidate.docid)
        assert candidate.features["genre"] == f"g2{candidate.features['row']}"
    assert rows == {carousel["row"]: carousel["movies"] for carousel in shown[1]["carousels"]}
    where = {"row": 2, "column": 6, "page": 2, "genre": "g22", "examination": 1 / 3}
    assert made.candidate("m225").features == {**where, "clicked": 0, "examined": 0}
    assert [made.candidate("m211").features[name] for name in ("clicked", "examined")] == [1, 1]
    # What was clicked is 2, what was looked at again 1, once 0; the other fifteen are not judged, and no negatives.
    assert made.qrels == {"m211": 2, "m212": 0, "m213": 1}
    [examined], counts = apply([made], "judged")
    assert set(examined.docids) == {"m211", "m212", "m213"} and counts["documents"] == 15
    bare = Screens(str(tmp_path / "t"))
    screens(tmp_path / "t", [])
    assert [(q.qid, q.text) for q in bare.read().queries] == [("screen-1", "Task: free"), ("screen-2", "Task: free")]


def test_examination_of_a_place_is_recovered(tmp_path):
    rng, curve = random.Random(0), {(r, c): 0.9 / r * 0.8**c for r in range(1, 4) for c in range(1, 7)}
    feedback = []
    for n in range(600):
        s = 1 + n % 2
        looked = {f"m{s}{r}{c - 1}": 1 for (r, c), theta in curve.items() if rng.random() < theta}
        feedback.append({"user": f"u{n}", "screen": s, "fixations": looked})
    screens(tmp_path / "s", feedback)
    collection = Screens(str(tmp_path / "s")).read()
    found = {(int(f["row"]), int(f["column"])): f["examination"] for f in collection.features["u0-1"].values()}
    assert max(abs(float(found[where]) - theta) for where, theta in curve.items()) < 0.05
    nothing = examination({"1": {"a": Place(1, 1, 1, "g")}}, [])
    assert nothing == {}


WORDS = st.text("abc é,[]=%\n", max_size=8)
EVENTS = st.lists(
    st.builds(
        Event,
        time=st.integers(0, 20).map(lambda n: n * 7200),
        kind=st.sampled_from(["watch", "watch", "search"]),
        item=st.sampled_from(["i1", "i2", "i3", "i4"]),
        text=WORDS,
        surface=st.sampled_from(["home", "search", "a, b"]),
        carousel=st.sampled_from(["", "Comedy", "Top [10], %"]),
        position=st.one_of(st.none(), st.integers(1, 20)),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.dictionaries(st.text("ab =%", min_size=1, max_size=5), WORDS, max_size=3))
def test_a_story_reads_back_as_what_it_was_written_from(events, attributes):
    story = Story(attributes, sorted(events, key=lambda event: event.time))
    found, sessions = parsed(written(story))
    assert found == attributes
    said = [e for session in sessions for e in session]

    def shown(event: Event) -> Event:
        text = " ".join(event.text.split())
        return Event(0, "search", text=text) if event.kind == "search" else replace(event, time=0, text=text)

    assert said == [shown(event) for event in story.events]
    times = [event.time for event in story.events]
    assert len(sessions) == bool(times) + sum(b - a >= 6 * 3600 for a, b in pairwise(times))


def made_of(stories: dict[str, Story], **params: Any) -> Collection:
    documents = {f"i{n}": Document(f"Item {n}", "text") for n in range(1, 5)}
    return queries(Viewers("unused", **params), stories, {}, documents, Omissions())


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=3), st.integers(0, 20).map(lambda n: n * 7200))
def test_no_later_event_shows_in_a_query_its_candidates_or_its_split_order(viewers, now):
    """A log that was cut off at some time gives the same queries up to it."""
    stories = {f"u{n}": Story({}, sorted(found, key=lambda e: e.time)) for n, found in enumerate(viewers)}
    cut = {user: story.before(now) for user, story in stories.items()}
    whole, early = made_of(stories), made_of(cut)
    known = {query.qid: query.text for query in early.queries}
    past = {query.qid: query.text for query in whole.queries if int(query.qid.split("-")[1]) < now}
    assert known == past
    for qid in known:
        assert early.runs is not None and whole.runs is not None
        assert early.runs[qid] == whole.runs[qid] and early.qrels[qid] == whole.qrels[qid]
    last = {
        split: [int(q.qid.split("-")[1]) for q in whole.queries if q.split == split]
        for split in ("train", "dev", "test")
    }
    for earlier, later in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not last[earlier] or not last[later] or max(last[earlier]) < min(last[later])


def test_viewers_give_item_carousel_and_search_tasks(tmp_path):
    hour = 3600
    events = [
        {
            "user": "a",
            "time": 0,
            "kind": "watch",
            "item": "i1",
            "text": "One",
            "surface": "home",
            "carousel": "Comedy",
            "position": 2,
        },
        {
            "user": "b",
            "time": hour,
            "kind": "watch",
            "item": "i2",
            "text": "Two",
            "surface": "home",
            "carousel": "Drama",
        },
        {"user": "a", "time": 30 * hour, "kind": "search", "text": "funny dog"},
        {
            "user": "a",
            "time": 31 * hour,
            "kind": "watch",
            "item": "i3",
            "text": "Three",
            "surface": "search",
            "position": 1,
            "offered": ["i4", "i3"],
        },
        {
            "user": "b",
            "time": 32 * hour,
            "kind": "watch",
            "item": "i4",
            "text": "Four",
            "surface": "home",
            "carousel": "Comedy",
        },
    ]
    corpus = [{"docid": f"i{n}", "title": f"Item {n}", "text": "text"} for n in range(1, 5)]
    for name, rows in {"events": events, "corpus": corpus, "users": [{"user": "a", "country": "US"}]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Viewers(str(tmp_path), test_share=0.02, dev_share=0.0).read()
    texts = {query.qid: query.text for query in found.queries}
    story = "attributes country=US\nsession\nwatch i1 [home, Comedy, 2] One\nsession after 1d\nsearch funny dog"
    assert texts[f"a-{31 * hour}-2-s"] == f"{story}\ntask search: funny dog"
    assert found.qrels[f"a-{31 * hour}-2-s"] == {"i3": 1, "i4": 0}
    assert texts[f"b-{32 * hour}-1-c"].endswith("watch i2 [home, Drama, ] Two\ntask carousel")
    assert found.qrels[f"b-{32 * hour}-1-c"] == {"carousel:Comedy": 1, "carousel:Drama": 0}
    # Nothing was offered: what others had watched by then, and b had not.
    assert found.qrels[f"b-{32 * hour}-1-i"] == {"i4": 1, "i1": 0, "i3": 0}
    assert {query.qid: query.split for query in found.queries}[f"b-{32 * hour}-1-i"] == "test"


def test_a_story_keeps_its_last_events():
    story = Story({}, [Event(n, "watch", f"i{n}") for n in range(5)])
    assert [event.item for event in story.latest(2).events] == ["i3", "i4"] and story.latest(0).events == []
    with pytest.raises(ValueError, match="line 2 of a story is none of attributes, session, watch and search"):
        parsed("attributes\nwatch i1 [home, , ] x")
