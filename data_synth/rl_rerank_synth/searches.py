"""The embedded web search: long documents, people who search and click, and judgments of some queries.

A query names four properties of a thing, and a document's grade is how many of them its thing has. The one sentence
that names them stands behind others that have nothing to do with any query: the beginning of a document shows none.
A production ranker orders the documents with errors. People look at a rank with a probability that falls with it, click
more on attractive documents than on relevant ones, and stay longer where a document is relevant. So clicks say little,
and what happens after them says more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rl_rerank.data.records import Collection, Document, Query

COLOURS = ("amber", "black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
MATERIALS = (
    "canvas",
    "clay",
    "copper",
    "cotton",
    "glass",
    "leather",
    "marble",
    "oak",
    "paper",
    "silk",
    "steel",
    "wool",
)
THINGS = ("bag", "blanket", "bowl", "box", "chair", "clock", "coat", "curtain", "jug", "lamp", "shelf", "table")
DETAILS = (
    "buttons",
    "dots",
    "flowers",
    "fringes",
    "handles",
    "hinges",
    "letters",
    "pockets",
    "rings",
    "stars",
    "stripes",
)
PROPERTIES = (COLOURS, MATERIALS, THINGS, DETAILS)
LEVELS = 5
"""Grades are from 0 to 4."""
SHARES = (0.3, 0.25, 0.2, 0.15, 0.1)
"""Of documents of each grade among a query's candidates."""
AROUND = (
    "The shop opens at nine on weekdays.",
    "Parcels leave the house every second day.",
    "Our team answers mails within a few hours.",
    "Readers praised the service last year.",
    "You can pay by card or by invoice.",
    "The family business began in a small garage.",
    "Gifts are packed for free in December.",
    "Returns are taken back for thirty days.",
    "A map shows the way from the station.",
    "New pages are added at the end of each month.",
)


class Behaviour(NamedTuple):
    """What people did with the documents of one list: arrays of [sessions, documents]."""

    clicked: np.ndarray
    """bool."""
    dwell: np.ndarray
    """Seconds behind a click; 0 without one."""


@dataclass(frozen=True)
class Searches:
    """Simulated searches: train queries with judgments and with clicks alone, dev and test queries with judgments."""

    judged: int = 100
    """Train queries that are judged."""
    clicked: int = 400
    """Train queries of which only the behaviour is known."""
    dev: int = 40
    test: int = 200
    documents: int = 10
    """Of each query."""
    lead: int = 6
    """Sentences of a document before the one that tells its grade."""
    sessions: int = 40
    """Of each query."""
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("judged", "clicked", "dev", "test", "lead"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.params.{name} must be at least 0; got {getattr(self, name)}")
        for name in ("documents", "sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.params.{name} must be at least 1; got {getattr(self, name)}")

    def read(self) -> Collection:
        """Simulate everything."""
        rng = np.random.default_rng(self.seed)
        kinds = {"judged": ("train", self.judged), "clicked": ("train", self.clicked)}
        kinds |= {"dev": ("dev", self.dev), "test": ("test", self.test)}
        documents: dict[str, Document] = {}
        queries: list[Query] = []
        qrels: dict[str, dict[str, int]] = {}
        runs: dict[str, list[tuple[str, float | None]]] = {}
        features: dict[str, dict[str, dict[str, float | str]]] = {}
        for kind, (split, count) in kinds.items():
            for number in range(count):
                qid = f"{kind}{number}"
                wanted = [str(rng.choice(values)) for values in PROPERTIES]
                queries.append(Query(qid, _said(wanted), split))
                grades = {f"{qid}-{n}": int(grade) for n, grade in enumerate(self._grades(rng))}
                documents |= {docid: Document("", self._text(wanted, grade, rng)) for docid, grade in grades.items()}
                scores = {docid: grade + float(rng.normal(0, 2)) for docid, grade in grades.items()}
                order = sorted(grades, key=lambda docid, scores=scores: -scores[docid])
                runs[qid] = [(docid, scores[docid]) for docid in order]
                seen = behave(np.array([grades[docid] for docid in order]), self.sessions, rng)
                features[qid] = dict(zip(order, after_clicks(seen), strict=True))
                if kind != "clicked":
                    qrels[qid] = grades
        return Collection(documents, queries, qrels, runs, features=features)

    def state(self) -> str:
        """The version of the simulator; its parameters are part of the configuration."""
        return "1"

    def _grades(self, rng: np.random.Generator) -> np.ndarray:
        """Draw grades that are not all equal, so that every list has an order."""
        while True:
            found = rng.choice(LEVELS, self.documents, p=SHARES)
            if self.documents == 1 or len(set(found.tolist())) > 1:
                return found

    def _text(self, wanted: list[str], grade: int, rng: np.random.Generator) -> str:
        """Write a document whose thing has `grade` of the four wanted properties."""
        kept = set(rng.choice(len(wanted), grade, replace=False).tolist())
        own = [
            word if place in kept else str(rng.choice([other for other in PROPERTIES[place] if other != word]))
            for place, word in enumerate(wanted)
        ]
        around = [str(sentence) for sentence in rng.choice(AROUND, self.lead + 2)]
        return " ".join([*around[: self.lead], f"On sale: {_said(own)}.", *around[self.lead :]])


def _said(properties: list[str]) -> str:
    colour, material, thing, detail = properties
    return f"{colour} {material} {thing}, {detail}"


def behave(grades: np.ndarray, sessions: int, rng: np.random.Generator) -> Behaviour:
    """Simulate sessions with one list.

    Args:
        grades: [documents] in the order shown.
    """
    size = (sessions, len(grades))
    attraction = rng.random(len(grades))  # of its title and its picture, whatever its grade
    examined = rng.random(size) < np.arange(1, len(grades) + 1) ** -0.7
    clicked = examined & (rng.random(size) < 0.05 + 0.4 * attraction + 0.08 * grades)
    dwell = np.exp(rng.normal(np.log(8 + 14 * grades), 0.7, size))
    return Behaviour(clicked, np.where(clicked, dwell, 0.0))


def after_clicks(seen: Behaviour) -> Iterator[dict[str, float | str]]:
    """Yield each document's features: rank, rates of clicks, skips and last clicks, and mean dwell.

    A document is skipped where one below it is clicked and itself is not. Rates are shares of sessions; the mean dwell
    (seconds) is of clicks, and missing without any.
    """
    below = np.flip(np.cumsum(np.flip(seen.clicked, 1), 1), 1) - seen.clicked  # clicks on lower ranks
    skipped = ~seen.clicked & (below > 0)
    last = seen.clicked & (below == 0)
    for place in range(seen.clicked.shape[1]):
        clicks = seen.clicked[:, place]
        found: dict[str, float | str] = {
            "rank": place + 1,
            "click_rate": float(clicks.mean()),
            "skip_rate": float(skipped[:, place].mean()),
            "last_click_rate": float(last[:, place].mean()),
        }
        if clicks.any():
            found["dwell"] = float(seen.dwell[clicks, place].mean())
        yield found
