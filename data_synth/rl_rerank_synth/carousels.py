"""The embedded carousel task: simulated people on simulated screens, with known examination and known relevance.

A screen has one carousel for each of some genres, whose order rotates from screen to screen, so that every genre stands
in every row. Films of a carousel stand in the order of their fame, which their text says and which has nothing to do
with relevance. A person likes some genres and one mood; a film is relevant with a probability that depends on both. A
person examines a place with a probability that depends on row and column alone, and clicks on what is examined with
another probability, by relevance. Thus clicks prefer famous films, and what was not examined tells nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_rerank.data.records import Collection, Document
from rl_rerank.evaluation.clicks.positions import PositionModel
from rl_rerank_synth.carousel_records import Feedback, Place, apart, collection

GENRES = ("Action", "Animation", "Comedy", "Crime", "Drama", "Fantasy", "Horror", "Romance", "Sci-Fi", "Thriller")
MOODS = ("dark", "funny", "tender", "slow", "strange")
FAMES = ("A festival film that few people have seen", "A film that some people have seen", "A blockbuster of the year")
RELEVANCE = ((0.05, 0.2), (0.35, 0.95))
"""Probability that a film is relevant, by whether the person likes its genre, and its mood."""
CLICKS = (0.02, 0.8)
"""Probability of a click on an examined film that is not relevant, and on one that is."""


class _Film(NamedTuple):
    document: Document
    place: Place
    mood: str


@dataclass(frozen=True)
class Carousels:
    """Simulated visits: every person sees every screen. No person and no screen is in two splits."""

    users: int = 87
    screens: int = 40
    rows: int = 10
    """Carousels of a screen, at most the number of genres."""
    columns: int = 15
    """Films of a carousel."""
    page: int = 5
    """Films of a carousel that are shown at a time."""
    row_decay: float = 0.9
    """Examination of a row in comparison with the one above."""
    column_decay: float = 0.75
    """Examination of a column in comparison with the one before."""
    swipe: float = 0.6
    """Examination of a page in comparison with the one before, beside the columns'."""
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("users", "screens", "rows", "columns", "page"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.params.{name} must be at least 1; got {getattr(self, name)}")
        if self.rows > len(GENRES):
            raise ValueError(f"data.params.rows must be at most {len(GENRES)}, the genres; got {self.rows}")
        for name in ("row_decay", "column_decay", "swipe"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"data.params.{name} must be above 0 and at most 1; got {getattr(self, name)}")

    def read(self) -> Collection:
        """Simulate everything."""
        rng = np.random.default_rng(self.seed)
        screens = [self._screen(number, rng) for number in range(self.screens)]
        visits, left_out = apart(list(self._visits(screens, rng)))
        documents = {docid: film.document for screen in screens for docid, film in screen.items()}
        places = {f"s{number}": {d: film.place for d, film in screen.items()} for number, screen in enumerate(screens)}
        made = collection(documents, places, dict.fromkeys(places, "free browsing"), visits, theta=self.theta)
        said = f"visits left out, because the person is of one split and the screen of another: {left_out}"
        return replace(made, warnings=(said,))

    def state(self) -> str:
        """The version of the simulator; its parameters are part of the configuration."""
        return "1"

    @property
    def theta(self) -> NDArray[np.float64]:
        """Probability that a place is examined: [rows, columns]."""
        rows, columns = np.arange(self.rows), np.arange(self.columns)
        across = self.column_decay**columns * self.swipe ** (columns // self.page)
        return self.row_decay ** rows[:, None] * across[None, :]

    def _screen(self, number: int, rng: np.random.Generator) -> dict[str, _Film]:
        """Make the films of a screen, row by row."""
        films: dict[str, _Film] = {}
        for row in range(self.rows):
            genre = GENRES[(number + row) % len(GENRES)]
            # The most famous stand first.
            for column, fame in enumerate(sorted(rng.integers(0, len(FAMES), self.columns), reverse=True)):
                docid, mood = f"s{number}r{row}c{column}", MOODS[rng.integers(len(MOODS))]
                text = f"Genre: {genre}. Mood: {mood}. {FAMES[fame]}."
                place = Place(row + 1, column + 1, column // self.page + 1, genre)
                films[docid] = _Film(Document(f"Film {number}-{row}-{column}", text), place, mood)
        return films

    def _visits(self, screens: Sequence[Mapping[str, _Film]], rng: np.random.Generator) -> Iterator[Feedback]:
        clicks = PositionModel(self.theta, np.array(CLICKS))
        for user in range(self.users):
            liked = {str(genre) for genre in rng.choice(GENRES, len(GENRES) // 3, replace=False)}
            mood = MOODS[rng.integers(len(MOODS))]
            profile = f"Likes {', '.join(sorted(liked))}. In the mood for something {mood}"
            ratings = {genre: 5.0 if genre in liked else 1.0 for genre in GENRES}
            for number, screen in enumerate(screens):
                chances = [RELEVANCE[film.place.genre in liked][film.mood == mood] for film in screen.values()]
                relevant = (rng.random(len(chances)) < chances).astype(np.int64)
                seen = clicks.simulate(relevant.reshape(1, self.rows, self.columns), rng)
                assert seen.examined is not None  # a simulator knows
                truth = dict(zip(screen, relevant.tolist(), strict=True))
                looked = {d: 1 for d, saw in zip(screen, seen.examined.ravel(), strict=True) if saw}
                clicked = frozenset(d for d, did in zip(screen, seen.clicked.ravel(), strict=True) if did)
                yield Feedback(f"u{user}", f"s{number}", clicked, looked, profile, "", ratings, truth=truth)
