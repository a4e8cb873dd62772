"""Screens of carousels that people looked at, as ranking data: RecGaze's, and others of that shape."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rl_rerank.data.records import Collection, Omissions, Query
from rl_rerank.data.sources.reading import digest, existing, identifier, read_documents, records, split_name, string

CLICKED, LOOKED_AT_AGAIN, LOOKED_AT = 2, 1, 0
"""Grades. What nobody has looked at is not judged: it was not passed over."""


class Place(NamedTuple):
    """Where an item stands, all from 1."""

    row: int
    column: int
    page: int
    genre: str


class Feedback(NamedTuple):
    """What one person did on one screen."""

    user: str
    screen: str
    clicked: str
    """The item that was chosen at the end; empty: none."""
    fixations: Mapping[str, int]
    """Item -> how often it was looked at."""
    profile: str
    """What is known of the person, as text."""
    split: str


@dataclass(frozen=True)
class Screens:
    """Reads `corpus.jsonl`, `screens.jsonl {screen, task, carousels: [{row, genre, movies: [docid, ...]}]}` and, where
    there is one, `feedback.jsonl {user, screen, clicked, fixations: {docid: count}, profile, split}`.

    With feedback a query is a person's profile and the task, one for each screen that the person saw, and the
    candidates are all items of the screen, row by row; without it, one for each screen, and nothing is judged. Each
    candidate has `row`, `column`, `page` and `genre` among its features, and `examination`, how often people looked at
    this place of a screen. Source: RecGaze, https://arxiv.org/abs/2504.20792; the grades are ours.
    """

    path: str
    page: int = 5
    """Items of a carousel that are shown at a time."""
    excluded: tuple[str, ...] = ()
    """`USER/SCREEN` pairs that are known to be bad."""

    def read(self) -> Collection:
        """Read everything."""
        folder, omissions = Path(self.path), Omissions()
        documents = read_documents(existing(folder, "corpus.jsonl"), omissions)
        screens = dict(self._screens(existing(folder, "screens.jsonl")))
        tasks = {screen: task for screen, (task, _) in screens.items()}
        places = {screen: where for screen, (_, where) in screens.items()}
        for screen, where in places.items():
            for docid in [docid for docid in where if docid not in documents]:
                omissions.add("items left out, because no document has their docid", f"screen {screen}, {docid!r}")
                del where[docid]
        told = [f for f in self._feedback(folder, places, omissions) if f"{f.user}/{f.screen}" not in self.excluded]
        shares = examination(places, told)
        queries, qrels, runs, features = [], {}, {}, {}
        for one in told or [Feedback("", screen, "", {}, "", "") for screen in places]:
            qid = f"{one.user}-{one.screen}" if one.user else f"screen-{one.screen}"
            text = f"{one.profile + '. ' if one.profile else ''}Task: {tasks[one.screen]}"
            queries.append(Query(qid, text, one.split, one.user))
            qrels[qid] = grades(one)
            runs[qid] = [(docid, None) for docid in places[one.screen]]
            features[qid] = {d: _features(place, shares) for d, place in places[one.screen].items()}
        return Collection(documents, queries, qrels, runs, warnings=omissions.sentences(), features=features)

    def state(self) -> str:
        """A digest of the files."""
        folder = Path(self.path)
        files = [existing(folder, name) for name in ("corpus.jsonl", "screens.jsonl")]
        return digest([*files, *_optional(folder)])

    def _screens(self, path: Path) -> Iterator[tuple[str, tuple[str, dict[str, Place]]]]:
        for place, row in records(path):
            where: dict[str, Place] = {}
            for carousel in sorted(row.get("carousels", []), key=lambda carousel: carousel["row"]):
                for column, docid in enumerate(carousel["movies"], start=1):
                    if docid in where:
                        raise ValueError(f"{place}: {docid!r} stands twice on the screen")
                    page = (column - 1) // self.page + 1
                    where[docid] = Place(carousel["row"], column, page, carousel.get("genre", ""))
            yield identifier(row, ("screen",), place), (string(row, ("task",), place, ""), where)

    def _feedback(
        self, folder: Path, places: Mapping[str, Mapping[str, Place]], omissions: Omissions
    ) -> Iterator[Feedback]:
        for path in _optional(folder):
            for place, row in records(path):
                screen = identifier(row, ("screen",), place)
                if screen not in places:
                    raise ValueError(f"{place}: there is no screen {screen!r}")
                split = split_name(string(row, ("split",), place, ""), place)
                clicked, fixations = string(row, ("clicked",), place, ""), row.get("fixations", {})
                unknown = [docid for docid in (clicked, *fixations) if docid and docid not in places[screen]]
                if unknown:
                    omissions.add("feedback left out on items that are not on the screen", f"{place}, {unknown[0]!r}")
                seen = {d: int(n) for d, n in fixations.items() if d in places[screen]}
                chosen = "" if clicked in unknown else clicked
                user, profile = identifier(row, ("user",), place), string(row, ("profile",), place, "")
                yield Feedback(user, screen, chosen, seen, profile, split)


def grades(feedback: Feedback) -> dict[str, int]:
    """2 what was clicked, 1 what was looked at more than once, 0 what was looked at once; nothing else is judged."""
    found = {d: LOOKED_AT_AGAIN if n > 1 else LOOKED_AT for d, n in feedback.fixations.items() if n > 0}
    return {**found, feedback.clicked: CLICKED} if feedback.clicked else found


def examination(
    places: Mapping[str, Mapping[str, Place]], feedback: Sequence[Feedback]
) -> dict[tuple[int, int], float]:
    """(row, column) -> share of the screens seen on which something there was looked at or clicked, after Laplace.

    (looked at + 1) / (seen + 2): the probability that a click there is weighted with the inverse of. That examination
    depends on the place alone is an assumption, which later work on RecGaze contradicts.
    """
    seen: Counter[tuple[int, int]] = Counter()
    looked: Counter[tuple[int, int]] = Counter()
    for one in feedback:
        judged = grades(one)
        for docid, place in places[one.screen].items():
            seen[place.row, place.column] += 1
            looked[place.row, place.column] += docid in judged
    return {where: (looked[where] + 1) / (seen[where] + 2) for where in seen}


def _features(place: Place, shares: Mapping[tuple[int, int], float]) -> dict[str, float | str]:
    known: dict[str, float | str] = {"row": place.row, "column": place.column, "page": place.page, "genre": place.genre}
    share = shares.get((place.row, place.column))
    return known if share is None else {**known, "examination": share}


def _optional(folder: Path) -> list[Path]:
    return [file for name in ("feedback.jsonl", "feedback.jsonl.gz") if (file := folder / name).is_file()]
