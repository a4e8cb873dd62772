"""A Hugging Face dataset whose rows are queries with their passages, by id or from a local folder."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np

from rl_rerank.data.indexed import hashed
from rl_rerank.data.records import Collection, Document, Omissions, Query
from rl_rerank.data.sources import tables
from rl_rerank.data.sources.columns import Columns, Parsed, RowParser, hash_of
from rl_rerank.data.sources.reading import split_name

T = TypeVar("T")

_KEPT_ROWS = 64
"""Rows kept in memory: the documents of one query are asked for one after another."""


@dataclass(frozen=True)
class HuggingFace:
    """Reads a row as a query with passages; `columns` says which column is what.

    Texts stay in the dataset's files. Queries, docids and grades of all rows are read once, and every error in them is
    found then.
    """

    path: str
    """An id such as owner/name, a folder that `datasets` reads or has saved, or a file of parquet, jsonl, json, csv or
    arrow."""
    revision: str = ""
    """The commit of the hub to read, needed for an id."""
    config: str = ""
    """The dataset's configuration, where it has several."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Meaning -> column; `Columns` documents the meanings."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """train, dev or test -> the split's name there. Empty: by their names, or by a hash of the query where there is one
    split only."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split -> file or pattern inside of the dataset, for one whose files do not tell their splits, or that is a
    script."""
    spaced: bool = False
    """Docids may hold white space, which becomes %20."""

    requires = ("datasets",)

    def __post_init__(self) -> None:
        Columns.of(self.columns)
        for split in self.splits:
            if split_name(split, "data.params.splits") != split:
                raise ValueError(f"data.params.splits: our splits are train, dev and test; got {split!r}")

    def read(self) -> Collection:
        """Read everything but the texts of documents."""
        found = tables.read(self.path, self.config, self.revision, self.files)
        chosen = tables.by_split(found, self.splits, self.path)
        omissions, columns = Omissions(), Columns.of(self.columns)
        for name in found.keys() - {name for name, _ in chosen.values()}:
            omissions.add("splits left out, which data.params.splits does not name", repr(name))
        rows = _Rows(chosen, columns, self.path, omissions, spaced=self.spaced)
        documents, queries, numbers = _scan(rows, omissions, has_qids=bool(columns.qid))
        # What the second reading leaves out has been counted by the first.
        warnings = omissions.sentences()
        has_run = bool(columns.candidates or columns.negatives)
        return Collection(
            documents,
            queries,
            _OfQuery(numbers, lambda number: rows[number].qrels),
            _OfQuery(numbers, lambda n: [(docid, None) for docid, _ in rows[n].passages]) if has_run else None,
            warnings=warnings,
        )

    def state(self) -> str:
        """A digest of local files, or the id with its commit."""
        return tables.state(self.path, self.revision)


class _Rows:
    """The rows of all splits, numbered through, parsed when they are asked for."""

    def __init__(
        self,
        chosen: Mapping[str, tuple[str, tables.Table]],
        columns: Columns,
        path: str,
        omissions: Omissions,
        *,
        spaced: bool,
    ) -> None:
        self._splits = list(chosen)
        self._parsers: list[RowParser] = []
        self._tables: list[Any] = []
        for name, table in chosen.values():
            parser = RowParser(columns, table.features, f"{path}, split {name}", omissions, spaced=spaced)
            self._parsers.append(parser)
            self._tables.append(table.select_columns(parser.used))
        self._starts = [0, *accumulate(len(table) for table in self._tables)]
        self._parsed = lru_cache(_KEPT_ROWS)(self._parse)

    def __getitem__(self, number: int) -> Parsed:
        found = self._parsed(number)
        assert found is not None
        return found

    def all(self) -> Iterator[tuple[int, str, Parsed]]:
        """(number, our split, row) of every row with a query."""
        for split, parser, table, start in zip(
            self._splits, self._parsers, self._tables, self._starts[:-1], strict=True
        ):
            for number, row in enumerate(table):
                if (parsed := parser.parse(number, row)) is not None:
                    yield start + number, split, parsed

    def place(self, number: int) -> str:
        """Where a row stands, for errors."""
        part, at = self._locate(number)
        return f"{self._parsers[part].place}, row {at}"

    def _parse(self, number: int) -> Parsed | None:
        part, at = self._locate(number)
        return self._parsers[part].parse(at, self._tables[part][at])

    def _locate(self, number: int) -> tuple[int, int]:
        part = next(i for i, end in enumerate(self._starts[1:]) if number < end)
        return part, number - self._starts[part]


class _Documents(Mapping[str, Document]):
    """Documents by docid, each read from the first row that has it."""

    # Shape legend: P passages of all rows, D documents.

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows
        self._passages = array("Q"), array("Q"), array("I"), array("H")
        self._hashes = np.zeros(0, dtype=np.uint64)
        self._numbers = self._slots = np.zeros(0, dtype=np.int64)

    def add(self, number: int, parsed: Parsed) -> None:
        """Note the passages of a row."""
        hashes, contents, numbers, slots = self._passages
        for slot, (docid, document) in enumerate(parsed.passages):
            hashes.append(hashed(docid))
            contents.append(hashed(f"{docid}\0{document.title}\0{document.text}"))
            numbers.append(number)
            slots.append(slot)

    def close(self) -> None:
        """Take the first passage of each docid as its document.

        Raises:
            ValueError: if another passage with the docid has another text.
        """
        hashes, contents, numbers, slots = (np.array(part) for part in self._passages)  # [P] each
        order = np.argsort(hashes, kind="stable")
        hashes, contents, numbers, slots = hashes[order], contents[order], numbers[order], slots[order]
        is_new = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
        first = np.flatnonzero(is_new)[np.cumsum(is_new) - 1]  # [P] the first passage with the same hash
        for place in np.flatnonzero(contents != contents[first]).tolist():
            spot, other = (numbers[place], slots[place]), (numbers[first[place]], slots[first[place]])
            if self._passage(*spot)[0] == (docid := self._passage(*other)[0]):
                raise ValueError(
                    f"{self._rows.place(int(spot[0]))}: docid {docid!r} has another text than in "
                    f"{self._rows.place(int(other[0]))}; a docid is one document"
                )
            is_new[place] = True  # two docids of one hash
        self._hashes, self._numbers, self._slots = hashes[is_new], numbers[is_new], slots[is_new]
        self._passages = array("Q"), array("Q"), array("I"), array("H")

    def __getitem__(self, docid: str) -> Document:
        key = np.uint64(hashed(docid))
        start, end = np.searchsorted(self._hashes, key, "left"), np.searchsorted(self._hashes, key, "right")
        for place in range(int(start), int(end)):
            found, document = self._passage(self._numbers[place], self._slots[place])
            if found == docid:
                return document
        raise KeyError(docid)

    def __iter__(self) -> Iterator[str]:
        for place in np.lexsort((self._slots, self._numbers)):
            yield self._passage(self._numbers[place], self._slots[place])[0]

    def __len__(self) -> int:
        return len(self._hashes)

    def _passage(self, number: Any, slot: Any) -> tuple[str, Document]:
        return self._rows[int(number)].passages[int(slot)]


class _OfQuery(Mapping[str, T]):
    """What belongs to a query, made of its row when it is asked for."""

    def __init__(self, numbers: Mapping[str, int], make: Callable[[int], T]) -> None:
        self._numbers, self._make = numbers, make

    def __getitem__(self, qid: str) -> T:
        return self._make(self._numbers[qid])

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def _scan(rows: _Rows, omissions: Omissions, *, has_qids: bool) -> tuple[_Documents, list[Query], dict[str, int]]:
    """Read all rows once: the documents, the queries, and the row of each qid."""
    documents, queries = _Documents(rows), list[Query]()
    numbers: dict[str, int] = {}
    for number, split, parsed in rows.all():
        if (before := numbers.get(parsed.qid)) is not None:
            if has_qids:
                taken = f"is already taken by {rows.place(before)}; a qid is one query"
                raise ValueError(f"{rows.place(number)}: qid {parsed.qid!r} {taken}")
            omissions.add("rows left out that repeat the query of an earlier one", rows.place(number))
            continue
        numbers[parsed.qid] = number
        documents.add(number, parsed)
        # Rows of one query under several ids must not be spread over splits.
        cluster = hash_of(parsed.query)
        queries.append(
            Query(
                parsed.qid,
                parsed.query,
                split,
                cluster,
                parsed.instruction,
                scores=parsed.scores,
                group=parsed.group,
            )
        )
    documents.close()
    return documents, queries, numbers
