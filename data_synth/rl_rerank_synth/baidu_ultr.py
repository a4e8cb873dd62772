"""Baidu-ULTR: sessions of Baidu's search with what people did, and queries that experts judged.

Source of the columns: the README and the code of https://github.com/ChuXiaokai/baidu_ultr_dataset.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rl_rerank.data.records import Collection, Document, Query
from rl_rerank.data.sources.reading import digest, existing
from rl_rerank.data.splits import DEV_SHARE, TEST_SHARE, fraction
from rl_rerank.io.trec import lines

SESSIONS = "part-*"
"""Names of session files, plain or .gz."""
JUDGMENTS = "nips_annotation_data_0522.txt"
QUERY, SHOWN, JUDGED = 3, 32, 6
"""Columns of a session's first line, of its other lines, and of a judgment."""
LABELS = ("0", "1", "2", "3", "4")
SEPARATOR = "\x01"
"""Between the numbers that stand for words."""
FEATURES = {
    "rank": 0,
    "click_rate": 5,
    "skip_rate": 8,
    "displayed_time": 10,
    "first_click_rate": 12,
    "dwell": 16,
    "final_click_rate": 23,
    "click_count": 25,
    "last_click_rate": 28,
}
"""Name of a candidate's feature -> the column that it is the mean of, over the times that it was shown."""


@dataclass
class _Shown:
    """A document of a query in the sessions."""

    document: Document
    times: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(FEATURES))


@dataclass(frozen=True)
class BaiduULTR:
    """Reads a folder of session files `part-*`, plain or .gz, and judgments, `nips_annotation_data_0522.txt`.

    Sessions with the same query are one query, of the train split, without judgments, and its candidates' features are
    means over sessions. Judged queries are divided over the splits by their text. A document is identified by query and
    title, because its abstract is made for the query: a judged one that was also shown in sessions has their features.
    Words are numbers, as in the files.
    """

    path: str
    sessions: int | None = 100_000
    """How many are read, in the order of the files' names; null: all."""

    def __post_init__(self) -> None:
        if self.sessions is not None and self.sessions < 0:
            raise ValueError(f"data.params.sessions must be at least 0; got {self.sessions}")

    def read(self) -> Collection:
        """Read everything.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: naming file and line of what is malformed.
        """
        documents: dict[str, Document] = {}
        queries: dict[str, Query] = {}
        qrels: dict[str, dict[str, int]] = {}
        runs: dict[str, list[tuple[str, float | None]]] = {}
        features: dict[str, dict[str, dict[str, float | str]]] = {}
        for text, shown in self._sessions().items():
            qid = _name("q", text)
            queries[qid] = Query(qid, _words(text), "train")
            features[qid] = {docid: _means(one) for docid, one in shown.items()}
            documents |= {docid: one.document for docid, one in shown.items()}
            runs[qid] = [(docid, None) for docid in sorted(shown, key=lambda d, of=features[qid]: (of[d]["rank"], d))]
        for place, (_, text, title, abstract, label, _) in _rows(existing(Path(self.path), JUDGMENTS), _is_judgment):
            qid, docid = _name("q", text), _name("d", text, title)
            if label not in LABELS:
                raise ValueError(f"{place}: the label must be a whole number from 0 to 4; got {label!r:.80}")
            grade = LABELS.index(label)
            queries[qid] = Query(qid, _words(text), _split(text))
            known = qrels.setdefault(qid, {})
            if known.get(docid, grade) != grade:
                raise ValueError(f"{place}: the label is {grade}, and the same title has {known[docid]} further up")
            if docid not in documents:
                documents[docid] = Document(_words(title), _words(abstract))
            known[docid] = grade
        # Of a judged query the judged documents alone are candidates, in an order that says nothing.
        runs |= {qid: [(docid, None) for docid in sorted(known)] for qid, known in qrels.items()}
        return Collection(documents, list(queries.values()), qrels, runs, features=features)

    def state(self) -> str:
        """SHA-256 of the files."""
        return digest([*self._files(), existing(Path(self.path), JUDGMENTS)])

    def _files(self) -> list[Path]:
        found = sorted(Path(self.path).glob(SESSIONS))
        if not found:
            raise FileNotFoundError(f"{self.path!r} has no session file {SESSIONS}")
        return found

    def _sessions(self) -> dict[str, dict[str, _Shown]]:
        """Query -> docid -> how it was shown."""
        found: dict[str, dict[str, _Shown]] = {}
        for session in islice(_divided(self._files()), self.sessions):
            _, (_, query, _) = session[0]
            shown = found.setdefault(query, {})
            for place, row in session[1:]:
                one = shown.setdefault(_name("d", query, row[2]), _Shown(Document(_words(row[2]), _words(row[3]))))
                one.times += 1
                for number, (name, column) in enumerate(FEATURES.items()):
                    one.sums[number] += _number(row[column], name, place)
        return found


def _divided(files: Iterable[Path]) -> Iterator[list[tuple[str, list[str]]]]:
    """Yield each session: the line of its query, and those of what was shown; rows with their places."""
    session: list[tuple[str, list[str]]] = []
    for file in files:
        for place, row in _rows(file, _is_session):
            if len(row) == QUERY:
                if session:
                    yield session
                session = [(place, row)]
            elif not session:
                raise ValueError(f"{place}: a document stands before the first query of {file.name}")
            else:
                session.append((place, row))
        if session:
            yield session
        session = []


def _is_session(row: list[str]) -> str:
    """Say what is wrong with a line of sessions; empty if nothing is."""
    if len(row) not in (QUERY, SHOWN):
        return f"expected a query of {QUERY} columns or a document of {SHOWN}"
    return "" if row[1].strip() else f"the {'query' if len(row) == QUERY else 'address'} is empty"


def _is_judgment(row: list[str]) -> str:
    if len(row) != JUDGED:
        return f"expected {JUDGED} columns: number, query, title, abstract, label and bucket"
    return "" if row[1].strip() else "the query is empty"


def _rows(file: Path, refuse: Callable[[list[str]], str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (`file:line`, columns)."""
    for number, line in lines(file):
        if not line.strip("\t "):
            continue
        row = line.split("\t")
        if reason := refuse(row):
            raise ValueError(f"{file}:{number}: {reason}; got {len(row)} columns: {line[:80]!r}")
        yield f"{file}:{number}", row


def _number(text: str, what: str, place: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(f"{place}: {what} must be a number of at least 0; got {text!r:.80}")
    return found


def _means(one: _Shown) -> dict[str, float | str]:
    return {"shown": one.times, **{name: total / one.times for name, total in zip(FEATURES, one.sums, strict=True)}}


def _split(query: str) -> str:
    place = fraction(f"baidu_ultr:{query}")
    return "dev" if place < DEV_SHARE else "test" if place < DEV_SHARE + TEST_SHARE else "train"


def _words(text: str) -> str:
    return " ".join(text.split(SEPARATOR)).strip()


def _name(kind: str, *parts: str) -> str:
    """A word for a query or for a document of a query, by what they say."""
    return kind + hashlib.sha256("\t".join(parts).encode()).hexdigest()[:16]
