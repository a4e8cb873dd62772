"""A read-only store of ranking examples, which stores each text once and finds everything by byte offset."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rl_rerank.data.records import Document
from rl_rerank.io.files import read_jsonl, write_json
from rl_rerank.types import Candidate, RankingExample

_DOCUMENTS = "documents.jsonl"
_META = "store.json"
"""The file that is written last: a folder without it is no store."""


class Row(NamedTuple):
    """An example whose candidates are named by docid."""

    qid: str
    query: str
    candidates: tuple[tuple[str, float | None], ...]
    """(docid, first-stage score), best first."""
    qrels: Mapping[str, int]
    instruction: str = ""
    order: tuple[str, ...] | None = None
    scores: Mapping[str, float] | None = None
    features: Mapping[str, Mapping[str, float | str]] | None = None
    """docid -> further features of the candidate."""


class Store:
    """The examples of one data configuration. Texts are read on demand.

    Raises:
        FileNotFoundError: if `directory` contains no store.
    """

    def __init__(self, directory: Path) -> None:
        meta = directory / _META
        if not meta.is_file():
            raise FileNotFoundError(f"there is no data store in {str(directory)!r}")
        # Nothing but store.json stays in memory, and no file stays open: forked processes would share the position of
        # an open file, and one would seek away under the other.
        self._directory = directory
        self._meta: dict[str, Any] = json.loads(meta.read_text(encoding="utf-8"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data configuration and of the state of its source."""
        return self._meta["fingerprint"]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about data that were left out when the store was built."""
        return tuple(self._meta["warnings"])

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have an example, in the order train, dev, test."""
        return tuple(self._meta["offsets"])

    def examples(self, split: str) -> list[RankingExample]:
        """Return the examples of a split; raise LookupError for a split without any."""
        # Queries share candidates, so each document is read once and its text is one object in all examples. The cache
        # ends with the call: kept on the store, it would grow to the whole corpus.
        rows, known = self._rows(split), dict[int, Document]()
        with (self._directory / _DOCUMENTS).open("rb") as documents:
            return [self._example(row, split, documents, known) for row in rows]

    def part(self, split: str, start: int, stop: int) -> list[RankingExample]:
        """Return the examples at the places from `start` to before `stop`, without reading any others."""
        # JSON keeps the order of keys, so the offsets stand in the order of the rows and a slice of them is a slice of
        # the split.
        offsets = list(self._meta["offsets"].get(split, {}).values())[start:stop]
        known: dict[int, Document] = {}
        with (
            (self._directory / f"{split}.jsonl").open("rb") as rows,
            (self._directory / _DOCUMENTS).open("rb") as documents,
        ):
            return [self._example(_read_line(rows, offset), split, documents, known) for offset in offsets]

    def size(self, split: str) -> int:
        """Return the number of examples in a split; raise LookupError for a split without any."""
        if split not in self.splits:
            raise LookupError(f"the data have no split {split!r}; they have: {', '.join(self.splits) or 'none'}")
        return len(self._meta["offsets"][split])

    def example(self, qid: str) -> RankingExample:
        """Return the example of one query; raise LookupError if there is none."""
        for split, offsets in self._meta["offsets"].items():
            if qid in offsets:
                with (
                    (self._directory / f"{split}.jsonl").open("rb") as rows,
                    (self._directory / _DOCUMENTS).open("rb") as documents,
                ):
                    return self._example(_read_line(rows, offsets[qid]), split, documents, {})
        raise LookupError(f"the data store {str(self._directory)!r} has no example with qid {qid!r}")

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Return qid -> docid -> grade, also for judged documents that are no candidates.

        A query of dev or test without any candidate has no example, but its judgments are here. Queries that nobody
        judged are absent.
        """
        # A query that retrieval found nothing for counts as 0 in every mean. Without it here, a worse first stage would
        # raise the mean of all systems.
        judged = {row["qid"]: row["qrels"] for row in self._rows(split)} | self._meta["unanswered"].get(split, {})
        return {qid: grades for qid, grades in judged.items() if grades}

    def _rows(self, split: str) -> list[dict[str, Any]]:
        self.size(split)
        return read_jsonl(self._directory / f"{split}.jsonl")

    def _example(
        self, row: dict[str, Any], split: str, documents: BinaryIO, known: dict[int, Document]
    ) -> RankingExample:
        candidates: list[Candidate] = []
        features = row.get("features", {})
        for rank, (docid, score, offset) in enumerate(row["candidates"], start=1):
            if offset not in known:
                line = _read_line(documents, offset)
                known[offset] = Document(line["title"], line["text"], tuple(line["images"]))
            title, text, images = known[offset]
            candidates.append(Candidate(docid, text, title, images, rank, score, features.get(docid, {})))
        return RankingExample(
            qid=row["qid"],
            query=row["query"],
            candidates=tuple(candidates),
            qrels=row["qrels"],
            instruction=row.get("instruction", ""),
            split=split,
            order=tuple(row["order"]) if "order" in row else None,
            scores=row.get("scores"),
            provenance={"source": self._meta["source"]},
        )


def write(
    folder: Path,
    *,
    fingerprint: str,
    source: str,
    rows: Mapping[str, Sequence[Row]],
    unanswered: Mapping[str, Mapping[str, Mapping[str, int]]],
    documents: Mapping[str, Document],
    warnings: Sequence[str],
) -> None:
    """Write a store into an empty folder.

    Args:
        rows: split -> examples. An empty split is left out.
        unanswered: split -> qid -> judgments of the queries that have no example.
    """
    # Only candidates are stored, so the store's size follows the retrieval depth and not the corpus. A dict keeps the
    # order in which they first occur, where a set of strings would give another file in every process.
    shown = dict.fromkeys(docid for part in rows.values() for row in part for docid, _ in row.candidates)
    # Documents come before rows, whose lines contain the documents' offsets.
    where = _write_lines(
        folder / _DOCUMENTS, {docid: {"docid": docid, **documents[docid]._asdict()} for docid in shown}
    )
    offsets: dict[str, dict[str, int]] = {}
    for split, part in rows.items():
        if part:
            lines = {row.qid: _line(row, where) for row in part}
            offsets[split] = _write_lines(folder / f"{split}.jsonl", lines)
    meta = {
        "fingerprint": fingerprint,
        "source": source,
        "warnings": list(warnings),
        "queries": {split: len(found) for split, found in offsets.items()},
        "documents": len(where),
        "unanswered": {split: dict(judged) for split, judged in unanswered.items() if judged},
        "offsets": offsets,
    }
    # Last, because its presence declares the store complete and its offsets point into the files above.
    write_json(folder / _META, meta)


def _line(row: Row, where: Mapping[str, int]) -> dict[str, Any]:
    candidates = [(docid, score, where[docid]) for docid, score in row.candidates]
    line: dict[str, Any] = {"qid": row.qid, "query": row.query, "candidates": candidates, "qrels": dict(row.qrels)}
    known = {"instruction": row.instruction or None, "order": row.order, "scores": row.scores, "features": row.features}
    # An absent key stands for None: most collections have none of these fields, and every reading of a split would
    # parse their nulls again.
    return line | {name: value for name, value in known.items() if value is not None}


def _write_lines(path: Path, values: Mapping[str, Any]) -> dict[str, int]:
    """Write one JSON value a line, and return the byte offset of each."""
    offsets: dict[str, int] = {}
    # In binary mode `tell` counts bytes; in text mode it is an opaque number, and newlines may be translated. JSON
    # escapes every line feed inside a value and binary `readline` ends at no other character, so that a value is
    # exactly one line, though other characters that count as line breaks in text, such as U+2028, stay unescaped.
    with path.open("wb") as file:
        for name, value in values.items():
            offsets[name] = file.tell()
            file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    return offsets


def _read_line(file: BinaryIO, offset: int) -> dict[str, Any]:
    file.seek(offset)
    return json.loads(file.readline())
