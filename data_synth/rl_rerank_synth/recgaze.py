"""RecGaze's own tables: gaze, cursor and clicks of people on screens of carousels.

Source of the columns: the README of https://github.com/santideleon/RecGaze_Dataset.
"""

import csv
import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rl_rerank.data.records import Collection, Document, Omissions
from rl_rerank.data.sources.reading import digest, existing, one_word
from rl_rerank_synth.carousel_records import Feedback, Place, apart, collection

FILES = ("item_features.csv", "user_features.csv", "summary_feedback.csv", "click_feedback.csv")
GAZE = {"strict": "Fixation_AOI", "closest": "Fixation_AOI_Closest"}
NOT_CHOSEN = ("I did not select a movie", "I selected a movie by accident")
PAGE = 5
"""Films of a carousel that are shown at a time."""
MISSING = ("", "NA", "nan")

Pair = tuple[str, str]
"""User and screen."""
Row = Mapping[str, str]


@dataclass(frozen=True)
class RecGaze:
    """Reads `item_features.csv`, `user_features.csv`, `summary_feedback.csv` and `click_feedback.csv`, plain or .gz.

    A query is a person's profile and the task of one screen, and its candidates are all films of the screen. Grades: 2
    the film that was chosen, 1 looked at more than once, 0 looked at once; others are not judged. No person and no
    screen is in two splits.
    """

    path: str
    gaze: Literal["strict", "closest"] = "closest"
    """Which fixations count: those inside of a film's area, or also those up to 60 pixels away from it."""
    excluded: tuple[str, ...] = ()
    """`USER/SCREEN` pairs that are known to be bad."""

    def __post_init__(self) -> None:
        if self.gaze not in GAZE:
            raise ValueError(f"data.params.gaze must be one of {', '.join(GAZE)}; got {self.gaze!r}")

    def read(self) -> Collection:
        """Read everything.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: naming file and line of what is malformed.
        """
        omissions = Omissions()
        items, users, events, clicks = (existing(Path(self.path), name) for name in FILES)
        documents, places = _items(items, omissions)
        profiles = _profiles(users)
        gaze, cursor = self._events(events, places, omissions)
        chosen = dict(self._choices(clicks, places, omissions))
        pairs = [pair for pair in dict.fromkeys([*chosen, *gaze]) if "/".join(pair) not in self.excluded]
        for user, _ in pairs:
            if user not in profiles:
                raise ValueError(f"{users}: user {user!r}, of whom there is feedback, is missing")
        visits = [
            Feedback(
                user,
                screen,
                chosen.get((user, screen), frozenset()),
                gaze.get((user, screen), {}),
                profiles[user][0],
                "",
                profiles[user][1],
                hovers=cursor.get((user, screen), {}),
            )
            for user, screen in pairs
        ]
        visits, left_out = apart(visits)
        said = f"visits left out, because the person is of one split and the screen of another: {left_out}"
        made = collection(documents, places, {screen: _task(int(screen)) for screen in places}, visits)
        return replace(made, warnings=(said, *omissions.sentences()))

    def state(self) -> str:
        """A digest of the files."""
        return digest(existing(Path(self.path), name) for name in FILES)

    def _events(
        self, path: Path, places: Mapping[str, Mapping[str, Place]], omissions: Omissions
    ) -> tuple[dict[Pair, Counter[str]], dict[Pair, Counter[str]]]:
        """(user, screen) -> film -> how often it was looked at, and how often the cursor was on it."""
        prefixes = GAZE[self.gaze], "Cursor_AOI"
        columns = [f"{prefix}_{name}" for prefix in prefixes for name in ("type", "MovieID")]
        gaze: dict[Pair, Counter[str]] = {}
        cursor: dict[Pair, Counter[str]] = {}
        for place, row in _rows(path, ("UserID", "TaskID", *columns)):
            pair = _pair(row, places, place)
            for prefix, found in zip(prefixes, (gaze, cursor), strict=True):
                counts = found.setdefault(pair, Counter())
                if row[f"{prefix}_type"] == "Movie":
                    film = str(_number(row, f"{prefix}_MovieID", place))
                    if film in places[pair[1]]:
                        counts[film] += 1
                    else:
                        omissions.add("events left out on films that are not on the screen", f"{place}, {film!r}")
        return gaze, cursor

    def _choices(
        self, path: Path, places: Mapping[str, Mapping[str, Place]], omissions: Omissions
    ) -> Iterator[tuple[Pair, frozenset[str]]]:
        """(user, screen) with the film that was chosen there, or none."""
        where = ("Click_AOI_Carousel_position", "Click_AOI_Movie_position_in_carousel")
        asked = ("Movie_Familiarity", "Why_Selected")
        seen: set[Pair] = set()
        for place, row in _rows(path, ("UserID", "TaskID", "Click_AOI_type", "Click_AOI_MovieID", *where, *asked)):
            pair = _pair(row, places, place)
            if pair in seen:
                raise ValueError(f"{place}: user {pair[0]!r} has chosen on screen {pair[1]!r} before")
            seen.add(pair)
            if row["Click_AOI_type"] != "Movie" or any(said in row[name] for said in NOT_CHOSEN for name in asked):
                omissions.add("visits without a choice, or with one by accident", f"{place}, {'/'.join(pair)}")
                yield pair, frozenset()
                continue
            film = str(_number(row, "Click_AOI_MovieID", place))
            known = places[pair[1]].get(film)
            if known is None:
                raise ValueError(f"{place}: film {film!r} was chosen and is not on screen {pair[1]!r}")
            if (known.row, known.column) != (at := tuple(_number(row, name, place) for name in where)):
                raise ValueError(
                    f"{place}: film {film!r} was chosen at carousel and position {at}; item_features.csv has it at "
                    f"{(known.row, known.column)}"
                )
            yield pair, frozenset({film})


def _items(path: Path, omissions: Omissions) -> tuple[dict[str, Document], dict[str, dict[str, Place]]]:
    """The films, and where they stand on each screen, row by row."""
    text = ("TMDB_title", "TMDB_release_date", "TMDB_genres", "TMDB_cast", "TMDB_overview")
    stands = ("Carousel_position", "Movie_position_in_carousel")
    documents: dict[str, Document] = {}
    places: dict[str, dict[str, Place]] = {}
    taken: dict[tuple[str, int, int], str] = {}
    for place, row in _rows(path, ("MovieID", "TaskID", "Carousel_genre", *stands, *text)):
        film, screen = str(_number(row, "MovieID", place)), str(_number(row, "TaskID", place))
        number, column = (_number(row, name, place) for name in stands)
        if min(number, column) < 1:
            raise ValueError(f"{place}: {' and '.join(stands)} must be at least 1; got {number} and {column}")
        if (first := taken.setdefault((screen, number, column), place)) != place:
            raise ValueError(f"{place}: carousel {number}, position {column} of screen {screen} is taken by {first}")
        documents.setdefault(film, _document(row))
        if film in places.setdefault(screen, {}):
            omissions.add("further places of a film on the same screen left out", f"{place}, film {film!r}")
            continue
        places[screen][film] = Place(number, column, (column - 1) // PAGE + 1, row["Carousel_genre"])
    ordered = {screen: dict(sorted(where.items(), key=lambda item: item[1][:2])) for screen, where in places.items()}
    return documents, ordered


def _document(row: Row) -> Document:
    year = re.search(r"\b(?:19|20)\d\d\b", row["TMDB_release_date"])
    title = row["TMDB_title"] + (f" ({year[0]})" if year else "")
    cast = ", ".join(re.findall(r"'([^']+)'", row["TMDB_cast"])) or row["TMDB_cast"]
    parts = [f"{name}: {value}." for name, value in (("Genres", row["TMDB_genres"]), ("Cast", cast)) if value]
    return Document(title, " ".join([*parts, row["TMDB_overview"]]).strip())


def _profiles(path: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """User -> profile, and ratings of genres."""
    found: dict[str, tuple[str, dict[str, float]]] = {}
    for place, row in _rows(path, ("UserID", "Top_genre", "Preferred_genres")):
        user = one_word(row["UserID"], "UserID", place)
        if user in found:
            raise ValueError(f"{place}: user {user!r} stands there twice")
        ratings: dict[str, float] = {}
        for name in row:
            if name.endswith("_rating") and row[name] not in MISSING:
                stars = re.match(r"([1-5]) star", row[name])
                if stars is None:
                    raise ValueError(f"{place}: {name} must begin with 1 to 5 stars; got {row[name]!r:.80}")
                ratings[name.removesuffix("_rating")] = float(stars[1])
        said = [f"Top genre: {row['Top_genre']}", f"Preferred genres: {row['Preferred_genres']}"]
        if ratings:
            said.append(f"Ratings: {', '.join(f'{genre} {stars:g} of 5' for genre, stars in ratings.items())}")
        found[user] = ". ".join(said), ratings
    return found


def _rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """(`path:line`, row) of a table that has at least these columns."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, strict=True)
        try:
            missing = [name for name in columns if name not in (table.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: the column {missing[0]} is missing")
            for row in table:
                if None in row or None in row.values():
                    names = len(table.fieldnames or ())
                    raise ValueError(f"{path}:{table.line_num}: a row must have {names} columns, as the first line has")
                yield f"{path}:{table.line_num}", row
        except (csv.Error, UnicodeDecodeError) as e:
            raise ValueError(f"{path}:{table.line_num}: the file cannot be read as a table: {e}") from None


def _pair(row: Row, places: Mapping[str, Mapping[str, Place]], place: str) -> Pair:
    screen = str(_number(row, "TaskID", place))
    if screen not in places:
        raise ValueError(f"{place}: item_features.csv has no screen {screen!r}")
    return one_word(row["UserID"], "UserID", place), screen


def _number(row: Row, name: str, place: str) -> int:
    # Tables with gaps have whole numbers as 7.0.
    match = re.fullmatch(r"(\d+)(?:\.0+)?", row[name].strip())
    if match is None:
        raise ValueError(f"{place}: {name} must be a whole number; got {row[name]!r:.80}")
    return int(match[1])


def _task(screen: int) -> str:
    return "free browsing" if screen <= 30 else "semi-free browsing" if screen <= 35 else "direct search"
