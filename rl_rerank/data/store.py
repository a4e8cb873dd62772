"""A read-only store of ranking examples, which stores each text once and finds everything by byte offset."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rl_rerank.data.indexed import Index, IndexedExamples, Line
from rl_rerank.data.records import Document
from rl_rerank.io.files import read_json, write_json, writing
from rl_rerank.types import Candidate, RankingExample

KEPT = 4096
"""Documents kept in memory while examples are read one after another: queries share candidates."""
_UNREAD = Document("", "")
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
    group: str = ""


class Split(IndexedExamples):
    """The examples of a split of a store."""

    def __init__(self, directory: Path, split: str, source: str) -> None:
        self._documents = directory / _DOCUMENTS
        self._split = split
        self._provenance = {"source": source}
        super().__init__(directory / f"{split}.jsonl")

    @contextmanager
    def _parser(self) -> Iterator[Callable[[bytes], RankingExample]]:
        with self._documents.open("rb") as documents:

            @lru_cache(KEPT)
            def document(offset: int) -> Document:
                documents.seek(offset)
                line = json.loads(documents.readline())
                return Document(line["title"], line["text"], tuple(line["images"]))

            yield lambda line: self._example(json.loads(line), document)

    def _outline(self, line: bytes) -> RankingExample:
        return self._example(json.loads(line), lambda offset: _UNREAD)

    def _example(self, row: dict[str, Any], document: Callable[[int], Document]) -> RankingExample:
        candidates: list[Candidate] = []
        features = row.get("features", {})
        for rank, (docid, score, offset) in enumerate(row["candidates"], start=1):
            title, text, images = document(offset)
            candidates.append(Candidate(docid, text, title, images, rank, score, features.get(docid, {})))
        return RankingExample(
            qid=row["qid"],
            query=row["query"],
            candidates=tuple(candidates),
            qrels=row["qrels"],
            instruction=row.get("instruction", ""),
            split=self._split,
            order=tuple(row["order"]) if "order" in row else None,
            scores=row.get("scores"),
            provenance=self._provenance,
            group=row.get("group", ""),
        )


class Store:
    """The examples of one data configuration. Rows and texts are read on demand.

    Raises:
        FileNotFoundError: if `directory` contains no store.
    """

    def __init__(self, directory: Path) -> None:
        meta = directory / _META
        if not meta.is_file():
            raise FileNotFoundError(f"there is no data store in {str(directory)!r}")
        self._directory = directory
        self._meta: dict[str, Any] = read_json(meta)
        self._splits: dict[str, Split] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data configuration and of the state of its source."""
        return self._meta["fingerprint"]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about data that were left out when the store was built."""
        return tuple(self._meta["warnings"])

    @property
    def has_images(self) -> bool:
        """Whether documents may have images; True for a store that does not say."""
        return self._meta.get("images", True)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have an example, in the order train, dev, test."""
        return tuple(self._meta["queries"])

    def examples(self, split: str) -> Split:
        """Return the examples of a split; raise LookupError for a split without any."""
        self.size(split)
        if split not in self._splits:
            self._splits[split] = Split(self._directory, split, self._meta["source"])
        return self._splits[split]

    def size(self, split: str) -> int:
        """Return the number of examples in a split; raise LookupError for a split without any."""
        if split not in self.splits:
            there = f"the data have no split {split!r}; they have: {', '.join(self.splits) or 'none'}"
            if asked := self._meta.get("asked", {}).get(split):
                there = f"none of the {asked} queries of split {split!r} can be used"
            raise LookupError("; ".join([there, *self.warnings]))
        return self._meta["queries"][split]

    def example(self, qid: str) -> RankingExample:
        """Return the example of one query; raise LookupError if there is none."""
        for split in self.splits:
            examples = self.examples(split)
            place = examples.place(qid)
            if place is not None:
                return examples[place]
        raise LookupError(f"the data store {str(self._directory)!r} has no example with qid {qid!r}")

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Return qid -> docid -> grade, also for judged documents that are no candidates.

        A query of dev or test without any candidate has no example, but its judgments are here. Queries that nobody
        judged are absent.
        """
        # A query that retrieval found nothing for counts as 0 in every mean. Without it here, a worse first stage would
        # raise the mean of all systems.
        judged = {e.qid: dict(e.qrels) for e in self.examples(split).outlines()}
        judged |= {qid: dict(grades) for qid, grades in self.unanswered(split).items()}
        return {qid: grades for qid, grades in judged.items() if grades}

    def unanswered(self, split: str) -> Mapping[str, Mapping[str, int]]:
        """Return qid -> docid -> grade of the queries of dev or test that have no candidate, and so no example."""
        return self._meta["unanswered"].get(split, {})

    def groups(self, split: str) -> dict[str, str]:
        """Return qid -> group, of the queries that have one, also those without any candidate."""
        found = {e.qid: e.group for e in self.examples(split).outlines() if e.group}
        return found | self._meta.get("groups", {}).get(split, {})


class Writer:
    """Writes a store into an empty folder, one row after the other.

    Only candidates are stored, so the store's size follows the retrieval depth and not the corpus. Neither rows nor
    texts stay in memory.
    """

    def __init__(self, folder: Path, documents: Mapping[str, Document]) -> None:
        self._folder = folder
        self._documents = documents
        self._where: dict[str, int] = {}
        self._queries: dict[str, int] = {}
        self._has_images = False

    def split(self, split: str, rows: Iterable[Row]) -> None:
        """Write the examples of a split; an empty split is left out."""
        path = self._folder / f"{split}.jsonl"
        documents_file = self._folder / _DOCUMENTS
        with writing(self._folder), path.open("wb") as file, documents_file.open("ab") as documents:
            index = Index.of(self._written(rows, file, documents), file.tell)
        if len(index):
            index.write(path)
            self._queries[split] = len(index)
        else:
            path.unlink()

    def finish(
        self,
        *,
        fingerprint: str,
        source: str,
        unanswered: Mapping[str, Mapping[str, Mapping[str, int]]],
        groups: Mapping[str, Mapping[str, str]],
        asked: Mapping[str, int],
        warnings: Sequence[str],
    ) -> None:
        """Write the file that declares the store complete.

        Args:
            asked: split -> number of its queries in the source, usable or not.
            unanswered: split -> qid -> judgments of the queries that have no example.
            groups: split -> qid -> group, of those of them that have one.
        """
        meta = {
            "fingerprint": fingerprint,
            "source": source,
            "warnings": list(warnings),
            "queries": self._queries,
            "asked": dict(asked),
            "documents": len(self._where),
            "images": self._has_images,
            "unanswered": {split: dict(judged) for split, judged in unanswered.items() if judged},
        }
        if found := {split: dict(of) for split, of in groups.items() if of}:
            meta["groups"] = found
        write_json(self._folder / _META, meta)

    def _written(self, rows: Iterable[Row], file: BinaryIO, documents: BinaryIO) -> Iterator[Line]:
        """Write rows, and yield what the index needs of each."""
        for row in rows:
            # Documents come before their rows, whose lines contain the documents' offsets.
            for docid, _ in row.candidates:
                if docid not in self._where:
                    document = self._documents[docid]
                    self._has_images = self._has_images or bool(document.images)
                    self._where[docid] = _write_line(documents, {"docid": docid, **document._asdict()})
            offset = _write_line(file, _line(row, self._where))
            docids = [docid for docid, _ in row.candidates]
            yield Line(offset, row.qid, docids, row.qrels, len(row.query) + len(row.instruction))


def _line(row: Row, where: Mapping[str, int]) -> dict[str, Any]:
    candidates = [(docid, score, where[docid]) for docid, score in row.candidates]
    line: dict[str, Any] = {"qid": row.qid, "query": row.query, "candidates": candidates, "qrels": dict(row.qrels)}
    known = {
        "instruction": row.instruction or None,
        "order": row.order,
        "scores": row.scores,
        "features": row.features,
        "group": row.group or None,
    }
    # An absent key stands for None: most collections have none of these fields, and every reading of a split would
    # parse their nulls again.
    return line | {name: value for name, value in known.items() if value is not None}


def _write_line(file: BinaryIO, value: Any) -> int:
    """Write a JSON value as a line, and return the byte offset at which it begins."""
    # In binary mode `tell` counts bytes; in text mode it is an opaque number, and newlines may be translated. JSON
    # escapes every line feed inside a value and binary `readline` ends at no other character, so that a value is
    # exactly one line, though other characters that count as line breaks in text, such as U+2028, stay unescaped.
    offset = file.tell()
    file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    return offset
