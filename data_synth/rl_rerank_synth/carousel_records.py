"""Ranking records of carousel screens: where items stand, what people did there, and how often places are examined."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_rerank.data.records import Collection, Document, Query
from rl_rerank.data.splits import fraction

CLICKED, LOOKED_AT_AGAIN, LOOKED_AT = 2, 1, 0
"""Grades. What nobody has looked at is not judged: it was not passed over."""
DEV_SHARE, TEST_SHARE = 0.1, 0.3
"""Of the people, and of the screens: 1% and 9% of the visits where everybody sees every screen."""


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
    clicked: frozenset[str]
    """The items that were chosen."""
    fixations: Mapping[str, int]
    """Item -> how often it was looked at."""
    profile: str
    """What is known of the person, as text."""
    split: str
    ratings: Mapping[str, float] = {}
    """Genre -> the person's rating of it."""
    hovers: Mapping[str, int] | None = None
    """Item -> how often the cursor was on it; None: that was not recorded."""
    truth: Mapping[str, int] | None = None
    """Item -> relevance, where it is known; None: it is not."""

    @property
    def qid(self) -> str:
        """The query's id."""
        return f"{self.user}-{self.screen}" if self.user else f"screen-{self.screen}"


Places = Mapping[str, Mapping[str, Place]]
"""Screen -> item -> place."""


def collection(
    documents: Mapping[str, Document],
    places: Places,
    tasks: Mapping[str, str],
    visits: Sequence[Feedback],
    *,
    theta: NDArray[np.float64] | None = None,
) -> Collection:
    """Make a query of each visit, whose candidates are the items of the screen, row by row.

    Features of a candidate are `row`, `column`, `page` and `genre`; `clicked` and `examined`, 0 or 1, what was clicked
    being examined; `rating`, the person's of the genre, and `hovers`, where these are known; and `examination`, the
    share of training visits on which something at this place was examined.

    Args:
        tasks: screen -> task.
        theta: [R, C], the probability that a place is examined, where a simulator knows it; a feature of that name.
    """
    training = [visit for visit in visits if visit.split in ("", "train")]
    shares = examination(places, training)
    queries: list[Query] = []
    features: dict[str, dict[str, dict[str, float | str]]] = {}
    for visit in visits:
        profile = f"{visit.profile.removesuffix('.')}. " if visit.profile else ""
        queries.append(Query(visit.qid, f"{profile}Task: {tasks[visit.screen]}", visit.split, visit.user))
        features[visit.qid] = {d: _features(d, place, visit, shares) for d, place in places[visit.screen].items()}
        if theta is not None:
            for docid, place in places[visit.screen].items():
                features[visit.qid][docid]["theta"] = float(theta[place.row - 1, place.column - 1])
    return Collection(
        documents,
        queries,
        {visit.qid: grades(visit) if visit.truth is None else visit.truth for visit in visits},
        {visit.qid: [(docid, None) for docid in places[visit.screen]] for visit in visits},
        features=features,
    )


def grades(feedback: Feedback) -> dict[str, int]:
    """2 what was clicked, 1 what was looked at more than once, 0 what was looked at once; nothing else is judged."""
    found = {d: LOOKED_AT_AGAIN if n > 1 else LOOKED_AT for d, n in feedback.fixations.items() if n > 0}
    return {**found, **dict.fromkeys(feedback.clicked, CLICKED)}


def examination(places: Places, feedback: Sequence[Feedback]) -> dict[tuple[int, int], float]:
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


def apart(visits: Sequence[Feedback]) -> tuple[list[Feedback], int]:
    """Split visits such that no person and no screen is in two splits.

    People and screens are assigned to splits by hashes of their names. A visit belongs to the split of both; where they
    differ, it belongs to none.

    Returns:
        The visits of splits, and the number of those that are left out.
    """
    sides = [(visit, _side("user", visit.user), _side("screen", visit.screen)) for visit in visits]
    kept = [visit._replace(split=side) for visit, side, other in sides if side == other]
    return kept, len(visits) - len(kept)


def _side(what: str, name: str) -> str:
    place = fraction(f"{what}:{name}")
    return "dev" if place < DEV_SHARE else "test" if place < DEV_SHARE + TEST_SHARE else "train"


def _features(
    docid: str, place: Place, visit: Feedback, shares: Mapping[tuple[int, int], float]
) -> dict[str, float | str]:
    known: dict[str, float | str] = {"row": place.row, "column": place.column, "page": place.page, "genre": place.genre}
    if visit.user:
        known["clicked"] = int(docid in visit.clicked)
        known["examined"] = int(docid in visit.clicked or visit.fixations.get(docid, 0) > 0)
    if visit.hovers is not None:
        known["hovers"] = visit.hovers.get(docid, 0)
    if place.genre in visit.ratings:
        known["rating"] = visit.ratings[place.genre]
    share = shares.get((place.row, place.column))
    return known if share is None or not visit.user else {**known, "examination": share}
