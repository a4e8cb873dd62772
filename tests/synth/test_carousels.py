"""Carousel screens: RecGaze's tables, and the embedded simulator."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.synth_runs import apply

from rl_rerank.config import DataConfig
from rl_rerank.data import prepare
from rl_rerank_synth.carousel_records import Feedback, apart
from rl_rerank_synth.carousels import Carousels
from rl_rerank_synth.recgaze import RecGaze

GENRES = ("Action", "Comedy")
SMALL = Carousels(users=40, screens=20, rows=3, columns=4, page=2)


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    with (folder / name).open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def tables(folder: Path) -> dict[str, list[dict[str, object]]]:
    """Two people on 40 screens of 2 carousels by 6 films; what they do on the first: UvA_1 chooses 111 at (1, 2)."""
    items = [
        {
            "MovieID": 100 * s + 10 * (r + 1) + c,
            "TaskID": s,
            "Carousel_position": r + 1,
            "Carousel_genre": GENRES[r],
            "Movie_position_in_carousel": c + 1,
            "TMDB_title": f"Film {s}-{r}-{c}",
            "TMDB_release_date": "05-21-1999",
            "TMDB_genres": f"{GENRES[r]}, Drama",
            "TMDB_cast": "['Ann O', 'Bo']",
            "TMDB_overview": "A story, told twice.",
        }
        for s in (1, 36)
        for r in range(2)
        for c in range(6)
    ]
    stars = {"Action_rating": "5 stars - Must Watch", "Comedy_rating": "1 star - Awful"}
    users = [
        {"UserID": u, "Top_genre": "Action", "Preferred_genres": "Action, Crime", **stars} for u in ("UvA_1", "UvA_2")
    ]

    def event(user: str, closest: object = "NA", strict: object = "NA", cursor: object = "NA") -> dict[str, object]:
        found: dict[str, object] = {"UserID": user, "TaskID": 1, "Timestamp": 0.5}
        for prefix, film in (("Fixation_AOI", strict), ("Fixation_AOI_Closest", closest), ("Cursor_AOI", cursor)):
            kind = "NA" if film == "NA" else "Genre" if film == "genre" else "Movie"
            found |= {f"{prefix}_type": kind, f"{prefix}_MovieID": "NA" if kind == "Genre" else film}
        return found

    events = [
        event("UvA_1", 110.0, 110.0),
        event("UvA_1", 110.0),
        event("UvA_1", 115.0, cursor=120.0),
        event("UvA_1", "genre"),
        event("UvA_2", 999),
    ]
    click = {
        "UserID": "UvA_1",
        "TaskID": 1,
        "Click_AOI_type": "Movie",
        "Click_AOI_MovieID": 111,
        "Click_AOI_Carousel_position": 1,
        "Click_AOI_Movie_position_in_carousel": 2,
        "Movie_Familiarity": "I have never heard of the movie",
        "Why_Selected": "Because of the poster",
    }
    accident = {**click, "UserID": "UvA_2", "Why_Selected": "I selected a movie by accident"}
    found = {
        "item_features": items,
        "user_features": users,
        "summary_feedback": events,
        "click_feedback": [click, accident],
    }
    for name, rows in found.items():
        write(folder, f"{name}.csv", rows)
    return found


@pytest.fixture
def one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """All visits in one split, so that a test of two people does not depend on hashes."""
    monkeypatch.setattr(
        "rl_rerank_synth.recgaze.apart", lambda visits: ([v._replace(split="train") for v in visits], 0)
    )


@pytest.mark.usefixtures("one_split")
def test_recgazes_tables_become_examples(tmp_path):
    tables(tmp_path)
    made = RecGaze(str(tmp_path)).read()
    assert [query.qid for query in made.queries] == ["UvA_1-1", "UvA_2-1"]
    assert made.queries[0].text == (
        "Top genre: Action. Preferred genres: Action, Crime. Ratings: Action 5 of 5, Comedy 1 of 5. Task: free browsing"
    )
    assert made.documents["111"] == (
        "Film 1-0-1 (1999)",
        "Genres: Action, Drama. Cast: Ann O, Bo. A story, told twice.",
        (),
    )
    assert made.runs is not None
    assert [docid for docid, _ in made.runs["UvA_1-1"]] == [*map(str, range(110, 116)), *map(str, range(120, 126))]
    # 110 was looked at twice, once within 60 pixels; 115 once; 111 was chosen and never looked at.
    assert made.qrels == {"UvA_1-1": {"110": 1, "115": 0, "111": 2}, "UvA_2-1": {}}
    features = made.features["UvA_1-1"]
    place = {"row": 1, "column": 6, "page": 2, "genre": "Action", "rating": 5.0}
    # Something at (1, 6) was examined on one of two visits: (1 + 1) / (2 + 2).
    assert features["115"] == {**place, "clicked": 0, "examined": 1, "hovers": 0, "examination": 0.5}
    assert [features["111"][name] for name in ("clicked", "examined")] == [1, 1]
    assert [features["120"][name] for name in ("clicked", "examined", "hovers", "rating")] == [0, 0, 1, 1.0]
    assert any("films that are not on the screen: 1" in said for said in made.warnings)
    assert any("by accident: 1" in said for said in made.warnings)
    strict = RecGaze(str(tmp_path), gaze="strict", excluded=("UvA_2/1",)).read()
    assert strict.qrels == {"UvA_1-1": {"110": 0, "111": 2}}


@pytest.mark.parametrize(
    ("table", "line", "change", "said"),
    [
        (
            "click_feedback",
            0,
            {"Click_AOI_MovieID": 999},
            r"click_feedback\.csv:2: film '999' was chosen and is not on",
        ),
        (
            "click_feedback",
            0,
            {"Click_AOI_Carousel_position": 2},
            r"csv:2: film '111' was chosen at carousel and position \(2, 2\)",
        ),
        ("click_feedback", 1, {"UserID": "UvA_1"}, r"csv:3: user 'UvA_1' has chosen on screen '1' before"),
        ("click_feedback", 0, {"TaskID": 7}, r"click_feedback\.csv:2: item_features\.csv has no screen '7'"),
        (
            "click_feedback",
            0,
            {"UserID": "UvA_9"},
            r"user_features\.csv: user 'UvA_9', of whom there is feedback, is miss",
        ),
        (
            "summary_feedback",
            1,
            {"Fixation_AOI_Closest_MovieID": "x"},
            r"csv:3: .*MovieID must be a whole number; got 'x'",
        ),
        (
            "item_features",
            1,
            {"Movie_position_in_carousel": 1},
            r"csv:3: carousel 1, position 1 of screen 1 is taken by .*:2",
        ),
        (
            "user_features",
            0,
            {"Action_rating": "7 stars"},
            r"csv:2: Action_rating must begin with 1 to 5 stars; got '7 stars'",
        ),
    ],
)
@pytest.mark.usefixtures("one_split")
def test_malformed_tables_are_refused_with_file_and_line(tmp_path, table, line, change, said):
    found = tables(tmp_path)
    found[table][line] |= change
    write(tmp_path, f"{table}.csv", found[table])
    with pytest.raises(ValueError, match=said):
        RecGaze(str(tmp_path)).read()


def test_a_table_without_a_column_or_with_a_short_row_is_refused(tmp_path):
    found = tables(tmp_path)
    (tmp_path / "click_feedback.csv").write_text("UserID,TaskID\n")
    with pytest.raises(ValueError, match=r"click_feedback\.csv: the column Click_AOI_type is missing"):
        RecGaze(str(tmp_path)).read()
    names = ",".join(found["item_features"][0])
    (tmp_path / "item_features.csv").write_text(f"{names}\n1,2\n")
    with pytest.raises(ValueError, match=r"item_features\.csv:2: a row must have 10 columns, as the first line has"):
        RecGaze(str(tmp_path)).read()


def test_no_person_and_no_screen_is_in_two_splits():
    visits = [Feedback(f"u{u}", f"s{s}", frozenset(), {}, "", "") for u in range(60) for s in range(40)]
    kept, left_out = apart(visits)
    assert len(kept) + left_out == len(visits)
    for part in ("user", "screen"):
        of = {split: {getattr(v, part) for v in kept if v.split == split} for split in ("train", "dev", "test")}
        assert all(of.values())
        assert not (of["train"] & of["test"] or of["train"] & of["dev"] or of["dev"] & of["test"])
    # A larger log moves no visit.
    more, _ = apart([*visits, Feedback("new", "s1", frozenset(), {}, "", "")])
    assert more[: len(kept)] == kept


@pytest.mark.slow
def test_the_simulator_knows_examination_and_its_people_click_what_they_examine():
    made = SMALL.read()
    seen = [f for by_document in made.features.values() for f in by_document.values()]
    assert max(abs(float(f["examination"]) - float(f["theta"])) for f in seen) < 0.08
    assert not [f for f in seen if f["clicked"] and not f["examined"]]
    assert min(float(f["theta"]) for f in seen) == pytest.approx(0.9**2 * 0.75**3 * 0.6)
    # A genre stands in every row.
    assert {f["row"] for f in seen if f["genre"] == "Horror"} == {1, 2, 3}
    rates = {}
    for grade in (0, 1):
        of = [
            f
            for q, docs in made.features.items()
            for d, f in docs.items()
            if made.qrels[q][d] == grade and f["examined"]
        ]
        rates[grade] = np.mean([f["clicked"] for f in of])
    assert rates[0] == pytest.approx(0.02, abs=0.02) and rates[1] == pytest.approx(0.8, abs=0.05)
    assert made == SMALL.read() and made != replace(SMALL, seed=2).read()


def test_clicks_prefer_famous_films_and_relevance_does_not():
    made = SMALL.read()
    shares = {}
    for name in ("clicked", "relevant"):
        hits = [
            "blockbuster" in made.documents[d].text
            for q, docs in made.features.items()
            for d, f in docs.items()
            if (f["clicked"] if name == "clicked" else made.qrels[q][d])
        ]
        shares[name] = np.mean(hits)
    everywhere = np.mean(["blockbuster" in document.text for document in made.documents.values()])
    assert shares["relevant"] == pytest.approx(everywhere, abs=0.04) and shares["clicked"] > everywhere + 0.1


def test_bad_sizes_of_the_simulator_are_refused():
    with pytest.raises(ValueError, match=r"data\.params\.rows must be at most 10, the genres; got 11"):
        Carousels(rows=11)
    with pytest.raises(ValueError, match=r"data\.params\.swipe must be above 0 and at most 1; got 0"):
        Carousels(swipe=0)


@pytest.mark.slow
def test_observed_judges_what_was_examined_and_weights_clicks(tmp_path):
    params = {"users": 40, "screens": 20, "rows": 3, "columns": 4, "page": 2}
    given = list(prepare(DataConfig(source="carousels", depth=12, params=params), tmp_path / "store").examples("train"))
    looks, counts = apply(given, "observed")
    naive, _ = apply(given, "observed", unexamined="negative")
    assert looks and counts["unexamined"] and len(naive) >= len(looks)
    for example in looks:
        assert set(example.qrels) == {c.docid for c in example.candidates if c.features["examined"]}
        for c in example.candidates:
            theta = float(c.features["examination"])
            assert example.scores is not None
            assert example.scores[c.docid] == (1 / max(theta, 0.05) if c.features["clicked"] else 0)
    assert all(len(example.qrels) == 12 for example in naive)
    with pytest.raises(
        ValueError, match=r"observed: qid '.*', docid '.*': the feature clicked must be a number from 0 to 1"
    ):
        apply([replace(given[0], candidates=tuple(replace(c, features={}) for c in given[0].candidates))], "observed")


@pytest.mark.slow
def test_weighted_clicks_are_worth_what_is_relevant_wherever_it_stands():
    made = replace(SMALL, users=80, screens=30).read()
    worth = {"left": [0.0, 0.0, 0.0], "right": [0.0, 0.0, 0.0]}
    for qid, documents in made.features.items():
        for docid, f in documents.items():
            sums = worth["left" if float(f["column"]) <= 2 else "right"]
            clicked = float(f["clicked"])
            sums[0] += clicked / float(f["examination"])
            sums[1] += clicked
            sums[2] += made.qrels[qid][docid]
    # A relevant film is clicked with probability .8 if it is examined, and of the others, four times as many, .02 are.
    for weighted, _, relevant in worth.values():
        assert weighted / relevant == pytest.approx(0.88, abs=0.1)
    assert worth["right"][1] / worth["right"][2] < 0.5 < 0.6 < worth["left"][1] / worth["left"][2]
