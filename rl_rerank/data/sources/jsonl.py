"""Ready-made ranking examples, one a line, with the texts in place."""

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_rerank.data.records import Collection, Document, Omissions, Query
from rl_rerank.data.sources.reading import digest, identifier, one_word, records, split_name, string
from rl_rerank.io import trec

ROW = {"qid", "query", "split", "instruction", "candidates", "qrels", "excluded", "order", "scores", "group"}
CANDIDATE = {"docid", "title", "text", "score", "features"}
OF_SYNTHESIS = {"teachers", "provenance", "rank", "images"}
"""Keys of rows that a synth stage wrote, of which a collection takes nothing."""
GRADES = ("grade", "label", "rel", "relevance")


@dataclass(frozen=True)
class JsonLines:
    """Reads a line `{qid, query, candidates: [{docid, text, title, score, features}], qrels: {docid: grade}, excluded,
    split, group}`.

    Candidates stand in first-stage order, and no document of the list `excluded` is one. All but qid, query, docid and
    text may be absent. `instruction` says more of what is sought, `order` is a gold order of docids, best first, and
    `scores` has a gold score for each docid that it names: rewards such as multiview and erank compare with these.
    `features` are numbers and texts by name.
    """

    path: str
    spaced: bool = False
    """Docids may hold white space, which becomes %20."""

    def read(self) -> Collection:
        """Read everything."""
        reader = Reader(spaced=self.spaced)
        for place, row in records(Path(self.path)):
            if "pos" in row and "candidates" not in row:
                raise ValueError(
                    f"{place}: rows of query, pos and neg are read by data=hf_flagembedding data.path={self.path}"
                )
            reader.add(place, row)
            _note_unread(row, place, reader.omissions)
        return reader.collection()

    def state(self) -> str:
        """A digest of the file."""
        return digest([Path(self.path)])


class Reader:
    """Makes a collection of such rows, whatever they were read from."""

    def __init__(self, *, spaced: bool = False) -> None:
        self.spaced = spaced
        self.documents: dict[str, Document] = {}
        self.queries: list[Query] = []
        self.qrels: dict[str, dict[str, int]] = {}
        self.runs: dict[str, list[tuple[str, float | None]]] = {}
        self.features: dict[str, dict[str, dict[str, float | str]]] = {}
        self.excluded: dict[str, set[str]] = {}
        self.omissions = Omissions()
        self._first: dict[str, str] = {}
        self._first_document: dict[str, str] = {}

    def collection(self) -> Collection:
        """What was read."""
        warnings = self.omissions.sentences()
        return Collection(self.documents, self.queries, self.qrels, self.runs, self.excluded, warnings, self.features)

    def add(self, place: str, row: dict[str, Any]) -> None:
        """Read one row; `place` is where it stands, for errors."""
        qid = identifier(row, ("qid",), place)
        if qid in self._first:
            raise ValueError(f"{place}: qid {qid!r} is already taken by {self._first[qid]}; a qid is one query")
        self._first[qid] = place
        text = string(row, ("query",), place)
        split = split_name(string(row, ("split",), place, ""), place)
        qrels = _qrels(row.get("qrels"), place, self.spaced)
        excluded = _excluded(row.get("excluded"), place, self.spaced)
        order = _order(row.get("order"), place, self.spaced)
        scores = _scores(row.get("scores"), f"{place}, qid {qid!r}", self.spaced)
        instruction = string(row, ("instruction",), place, "")
        run, features = self._candidates(row.get("candidates"), place)
        if not text.strip():
            self.omissions.add("empty queries skipped", f"{place}, qid {qid!r}")
            return
        group = string(row, ("group",), place, "")
        self.queries.append(Query(qid, text, split, "", instruction, order, scores, group))
        self.qrels[qid] = qrels
        if excluded:
            self.excluded[qid] = excluded
        self.runs[qid] = run
        if features:
            self.features[qid] = features

    def _candidates(
        self, values: Any, place: str
    ) -> tuple[list[tuple[str, float | None]], dict[str, dict[str, float | str]]]:
        """(docid, score) of each, best first; docid -> features of those that have any."""
        if not isinstance(values, list):
            raise ValueError(f"{place}: candidates must be a list of objects; got {values!r:.80}")
        run: dict[str, float | None] = {}
        features: dict[str, dict[str, float | str]] = {}
        for number, value in enumerate(values, start=1):
            spot = f"{place}: candidate {number}"
            if not isinstance(value, dict):
                raise ValueError(f"{spot} must be an object with docid and text; got {value!r:.80}")
            docid = identifier(value, ("docid",), spot, spaced=self.spaced)
            if docid in run:
                raise ValueError(f"{spot}: docid {docid!r} appears more than once among the candidates")
            document = Document(string(value, ("title",), spot, ""), string(value, ("text",), spot))
            if document.is_empty:
                self.omissions.add("empty documents left out", f"{spot}, docid {docid!r}")
                continue
            self._enter(docid, document, spot)
            run[docid] = _score(value.get("score"), spot)
            if known := _features(value.get("features"), spot):
                features[docid] = known
        return list(run.items()), features

    def _enter(self, docid: str, document: Document, spot: str) -> None:
        if self.documents.setdefault(docid, document) != document:
            raise ValueError(
                f"{spot}: docid {docid!r} has another text than at {self._first_document[docid]}; make docids unique "
                "over the file, for example by putting the qid before them"
            )
        self._first_document.setdefault(docid, spot)


def _note_unread(row: dict[str, Any], place: str, omissions: Omissions) -> None:
    """Note the keys that mean nothing here: one that is misspelt would otherwise be lost in silence."""
    objects = [("rows", row, ROW), *(("candidates", candidate, CANDIDATE) for candidate in row["candidates"])]
    for what, value, known in objects:
        for key in sorted(value.keys() - known - OF_SYNTHESIS):
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
            hint = f"; did you mean {close[0]!r}?" if close else "; judgments belong in qrels" if key in GRADES else ""
            omissions.add(f"keys of {what} not read{hint}", f"{key!r}, {place}")


def _excluded(values: Any, place: str, spaced: bool) -> set[str]:
    if values is None:
        return set()
    if not isinstance(values, list):
        raise ValueError(f"{place}: excluded must be a list of docids; got {values!r:.80}")
    return {identifier({"docid": value}, ("docid",), f"{place}: excluded", spaced=spaced) for value in values}


def _qrels(values: Any, place: str, spaced: bool) -> dict[str, int]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{place}: qrels must be an object docid -> grade; got {values!r:.80}")
    for docid, grade in values.items():
        if not isinstance(grade, int) or isinstance(grade, bool):
            raise ValueError(f"{place}: the grade of docid {docid!r} must be an integer; got {grade!r:.80}")
        trec.check_grade(grade, f"{place}: docid {docid!r}")
    return {one_word(docid, "a docid of qrels", place, spaced=spaced): grade for docid, grade in values.items()}


def _order(value: Any, place: str, spaced: bool) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(docid, str) for docid in value):
        raise ValueError(f"{place}: order must be a list of docids, best first; got {value!r:.80}")
    if len(set(value)) < len(value):
        raise ValueError(f"{place}: order names a docid more than once; got {value!r:.80}")
    return tuple(one_word(docid, "a docid of order", place, spaced=spaced) for docid in value)


def _scores(value: Any, place: str, spaced: bool) -> dict[str, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{place}: scores must be an object docid -> number; got {value!r:.80}")
    found: dict[str, float] = {}
    for docid, number in value.items():
        score = _score(number, f"{place}: scores, docid {docid!r}")
        if score is not None:
            found[one_word(docid, "a docid of scores", place, spaced=spaced)] = score
    return found


def _features(values: Any, spot: str) -> dict[str, float | str]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{spot}: features must be an object name -> number or text; got {values!r:.80}")
    known: dict[str, float | str] = {}
    for name, value in values.items():
        if isinstance(value, str):
            known[string({"name": name}, ("name",), spot)] = string(values, (name,), spot)
        elif (number := _number(value)) is not None:
            known[string({"name": name}, ("name",), spot)] = number
        else:
            raise ValueError(f"{spot}: the feature {name!r} must be a finite number or a text; got {value!r:.80}")
    return known


def _score(value: Any, spot: str) -> float | None:
    if value is None:
        return None
    if (number := _number(value)) is None:
        raise ValueError(f"{spot}: score must be a finite number; got {value!r:.80}")
    return float(number)


def _number(value: Any) -> int | float | None:
    """A finite number, within the range of floats; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -sys.float_info.max <= value <= sys.float_info.max else None
