"""Which columns of a table make a ranking example, and how one row becomes one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from rl_rerank.data.records import Document, Omissions
from rl_rerank.data.sources.reading import identifier, string
from rl_rerank.data.sources.tables import listed
from rl_rerank.data.splits import fraction

_DOCIDS = ("docid", "doc_id", "_id", "id", "pid")
_TEXTS = ("text", "contents", "content", "passage", "segment", "body")


@dataclass(frozen=True)
class Columns:
    """The columns that have a meaning for us; empty: there is none. `a.b` is the field b of the column a.

    A passage is a text, or has the fields text, title and docid, of which the last two may be absent. A list of one
    may be written without the list. What has no id is known by a hash of its text.
    """

    query: str = "query"
    qid: str = ""
    instruction: str = ""
    group: str = ""
    """What evaluations average over beside queries."""
    positives: str = ""
    """Relevant passages, grade 1."""
    negatives: str = ""
    """Others, grade 0."""
    positive_scores: str = ""
    """A gold score of each, such as a teacher's."""
    negative_scores: str = ""
    candidates: str = ""
    """Passages in the order of a first stage, in place of positives and negatives."""
    docids: str = ""
    """The docid of each candidate, where passages have none."""
    grades: str = ""
    """The grade of each candidate: whole numbers or booleans; null: unjudged."""
    scores: str = ""
    """A gold score of each candidate, such as a teacher's."""

    @staticmethod
    def of(given: Mapping[str, Any]) -> Columns:
        """Check the names of `data.params.columns`.

        Raises:
            ValueError: for a name that has no meaning, or columns that contradict each other.
        """
        known = [f.name for f in fields(Columns)]
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"data.params.columns has no {name!r}; {listed(name, known)}")
            if not isinstance(value, str):
                raise ValueError(f"data.params.columns.{name} must be the name of a column; got {value!r:.80}")
        found = Columns(**given)
        if bool(found.candidates) == bool(found.positives):
            had = "both" if found.candidates else "neither"
            raise ValueError(f"data.params.columns needs positives or candidates; it has {had}")
        for name, needs in (
            ("docids", "candidates"),
            ("grades", "candidates"),
            ("scores", "candidates"),
            ("negatives", "positives"),
            ("positive_scores", "positives"),
            ("negative_scores", "negatives"),
        ):
            if getattr(found, name) and not getattr(found, needs):
                raise ValueError(f"data.params.columns.{name} belongs to {needs}, which is not given")
        return found

    @property
    def named(self) -> dict[str, str]:
        """Meaning -> column, of those that are there."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}


class Parsed(NamedTuple):
    """What a row says."""

    qid: str
    query: str
    instruction: str
    passages: tuple[tuple[str, Document], ...]
    """(docid, document): candidates in the order of the first stage; positives and negatives in no order."""
    qrels: dict[str, int]
    scores: dict[str, float] | None
    group: str


class _Passage(NamedTuple):
    docid: str
    document: Document
    grade: int | None
    score: float | None


class RowParser:
    """Makes examples of the rows of a table.

    Args:
        features: column -> type, as `datasets` has it.
        place: the table's name in errors.

    Raises:
        LookupError: for a column that the table lacks.
    """

    def __init__(
        self, columns: Columns, features: Mapping[str, Any], place: str, omissions: Omissions, *, spaced: bool
    ) -> None:
        self._columns, self.place, self._omissions, self._spaced = columns, place, omissions, spaced
        self._names = columns.named
        self._paths = {name: _path(column, features, name, place) for name, column in self._names.items()}

    @property
    def used(self) -> list[str]:
        """The columns that are read."""
        return sorted({path[0] for path in self._paths.values()})

    def parse(self, number: int, row: Mapping[str, Any]) -> Parsed | None:
        """Make an example of a row; None for an empty query.

        Raises:
            ValueError: naming column, row and value.
        """
        place = f"{self.place}, row {number}"
        query = self._given(row, "query", place)
        if not isinstance(query, str):
            raise ValueError(f"{self._at(place, 'query')} must be a text; got {query!r:.80}")
        if not query.strip():
            self._omissions.add("empty queries skipped", place)
            return None
        qid = hash_of(query)
        if "qid" in self._paths:
            qid = identifier({"qid": self._given(row, "qid", place)}, ("qid",), self._at(place, "qid"))
        instruction = self._words(row, "instruction", place)
        passages = self._passages(row, place)
        if self._columns.positives:
            # The file has relevant passages first, and no order of them means anything.
            passages = dict(sorted(passages.items(), key=lambda item: fraction(f"{qid}:{item[0]}")))
        scores = {docid: p.score for docid, p in passages.items() if p.score is not None}
        return Parsed(
            qid,
            query,
            instruction,
            tuple((docid, p.document) for docid, p in passages.items()),
            {docid: p.grade for docid, p in passages.items() if p.grade is not None},
            scores or None,
            self._words(row, "group", place),
        )

    def _passages(self, row: Mapping[str, Any], place: str) -> dict[str, _Passage]:
        found: dict[str, _Passage] = {}
        for passage, spot, has_id in self._all(row, place):
            if passage.document.is_empty:
                self._omissions.add("empty documents left out", spot)
            elif passage.docid not in found:
                found[passage.docid] = passage
            elif has_id:
                raise ValueError(f"{spot}: docid {passage.docid!r} appears more than once in the row")
            else:
                self._omissions.add("passages left out that repeat the text of an earlier one of their query", spot)
        return found

    def _all(self, row: Mapping[str, Any], place: str) -> Iterator[tuple[_Passage, str, bool]]:
        """(passage, its place, whether it has a docid of its own) of every passage of a row."""
        parts = (
            ("positives", "positive_scores", 1),
            ("negatives", "negative_scores", 0),
            ("candidates", "scores", None),
        )
        for name, scored, grade in parts:
            if name not in self._paths:
                continue
            values = self._list(row, name, place)
            if not values and name != "negatives":
                reason = "a query without positives" if name == "positives" else "a query without candidates"
                raise ValueError(f"{self._at(place, name)} is an empty list: {reason} teaches and measures nothing")
            scores = self._beside(row, scored, name, len(values), place)
            docids = self._beside(row, "docids", name, len(values), place) if name == "candidates" else None
            grades = self._beside(row, "grades", name, len(values), place) if name == "candidates" else None
            for i, value in enumerate(values):
                spot = f"{self._at(place, name)}, passage {i}"
                given = None if docids is None else docids[i]
                docid, document, has_id = self._document(value, given, spot)
                is_grade = grade if grades is None else _grade(grades[i], f"{self._at(place, 'grades')}, entry {i}")
                score = None if scores is None else _score(scores[i], f"{self._at(place, scored)}, entry {i}")
                yield _Passage(docid, document, is_grade, score), spot, has_id

    def _document(self, value: Any, given: Any, spot: str) -> tuple[str, Document, bool]:
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"{spot} must be a text, or have the field text; got {value!r:.80}")
        row = dict(value) if given is None else {**value, "docid": given}
        document = Document(string(row, ("title",), spot, ""), string(row, _TEXTS, spot))
        if any(row.get(key) is not None for key in _DOCIDS):
            return identifier(row, _DOCIDS, spot, spaced=self._spaced), document, True
        return hash_of(f"{document.title}\n{document.text}"), document, False

    def _list(self, row: Mapping[str, Any], name: str, place: str) -> list[Any]:
        value = self._value(row, name)
        if isinstance(value, (str, Mapping)):
            return [value]
        if value is None and name == "negatives":
            return []
        if not isinstance(value, list):
            raise ValueError(f"{self._at(place, name)} must be a list of passages; got {value!r:.80}")
        return value

    def _beside(self, row: Mapping[str, Any], name: str, of: str, size: int, place: str) -> list[Any] | None:
        """The list that stands beside that of the passages; None: there is none."""
        if name not in self._paths:
            return None
        value = self._value(row, name)
        values = value if isinstance(value, list) else [value] if size == 1 else value
        if not isinstance(values, list) or len(values) != size:
            raise ValueError(
                f"{self._at(place, name)} must be a list of {size}, one for each of {of}; got {value!r:.80}"
            )
        return values

    def _value(self, row: Mapping[str, Any], name: str) -> Any:
        value: Any = row if name in self._paths else None
        for part in self._paths.get(name, ()):
            value = None if value is None else value[part]
        return value

    def _words(self, row: Mapping[str, Any], name: str, place: str) -> str:
        value = self._value(row, name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{self._at(place, name)} must be a text; got {value!r:.80}")
        return value or ""

    def _given(self, row: Mapping[str, Any], name: str, place: str) -> Any:
        value = self._value(row, name)
        if value is None:
            raise ValueError(f"{self._at(place, name)} is null")
        return value

    def _at(self, place: str, name: str) -> str:
        return f"{place}: column {self._names.get(name, name)!r}"


def hash_of(text: str) -> str:
    """The id of what has none: the first 80 bits of the text's SHA-256, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _path(column: str, features: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    """The parts of `a.b`, each of which the table has; a column whose name has a dot is one part."""
    if column in features:
        return (column,)
    parts = tuple(column.split("."))
    known: Any = features
    for i, part in enumerate(parts):
        if not isinstance(known, Mapping) or part not in known:
            what = f"column {part!r}" if i == 0 else f"field {part!r} in the column {'.'.join(parts[:i])!r}"
            names = known if isinstance(known, Mapping) else ()
            raise LookupError(f"data.params.columns.{name}: {place} has no {what}; {listed(part, names)}")
        known = known[part]
    return parts


def _grade(value: Any, spot: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, (bool, int, float)) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{spot}: a grade must be a whole number; got {value!r:.80}")
    return int(value)


def _score(value: Any, spot: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{spot}: a score must be a finite number; got {value!r:.80}")
    return float(value)
