"""Examples in a file, each read when it is asked for, and an index of what an order of training needs to know of them.

The index is a file beside that of the examples. It holds the columns of `COLUMNS`, each a 64-bit unsigned integer a
line, and is mapped into memory: its pages are read when they are needed, and processes share them.
"""

# Shape legend: N examples.

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from rl_rerank.io.files import replacing
from rl_rerank.types import RankingExample

Column = NDArray[np.uint64]
COLUMNS = ("offset", "best", "lower", "characters", "hash", "place")
"""Of each line: its first byte; its candidates of the highest grade, and of lower ones; the characters of its query and
instruction. Then the hashes of all qids in ascending order, and the line of each. Behind the last line stands the size
of the file."""


class Line(NamedTuple):
    """What the index takes from an example."""

    offset: int
    qid: str
    docids: Iterable[str]
    qrels: Mapping[str, int]
    characters: int
    """Of the query and the instruction."""


class Index:
    """Columns of an index.

    Args:
        table: [len(COLUMNS), N + 1].
    """

    def __init__(self, table: Column) -> None:
        self._table = table
        self.offset = table[0]
        """[N + 1]."""
        self.best, self.lower, self.characters, self._hash, self._place = table[1:, :-1]

    def __len__(self) -> int:
        return len(self.best)

    @staticmethod
    def of(lines: Iterable[Line], size: Callable[[], int]) -> Index:
        """Make the index of a file.

        Args:
            size: returns the file's size in bytes, once all lines are taken.
        """
        kept = array("Q")
        for one in lines:
            kept.extend((one.offset, *_counts(one.docids, one.qrels), one.characters, hashed(one.qid)))
        table = np.zeros((len(COLUMNS), len(kept) // 5 + 1), dtype="<u8")
        table[:5, :-1] = np.array(kept).reshape(-1, 5).T
        order = np.argsort(table[4, :-1], kind="stable")
        table[4, :-1], table[5, :-1] = table[4, order], order
        table[0, -1] = size()
        return Index(table)

    def write(self, path: Path) -> None:
        """Write the index of the examples at `path` beside them."""
        with replacing(_beside(path)) as file:
            np.save(file, self._table, allow_pickle=False)

    @staticmethod
    def read(path: Path) -> Index | None:
        """Map the index of the examples at `path` into memory; None if there is none, or the examples have changed."""
        file, examples = _beside(path), path.stat()
        if not file.is_file() or file.stat().st_mtime_ns < examples.st_mtime_ns:
            return None
        found = Index(np.load(file, mmap_mode="r", allow_pickle=False))
        return found if found.offset[-1] == examples.st_size else None

    def places(self, qid: str) -> list[int]:
        """Find the lines whose qid has the hash of this one, which nearly always is one or none."""
        key = np.uint64(hashed(qid))
        first, last = np.searchsorted(self._hash, key, "left"), np.searchsorted(self._hash, key, "right")
        return self._place[first:last].tolist()

    def first_places(self, hashes: Column) -> NDArray[np.int64]:
        """Find the first line with each of many hashes of qids; -1 where there is none."""
        if not len(self):
            return np.full(len(hashes), -1)
        at = np.minimum(np.searchsorted(self._hash, hashes), len(self) - 1)
        return np.where(self._hash[at] == hashes, self._place[at].astype(np.int64), -1)


class IndexedExamples(Sequence[RankingExample], ABC):
    """The examples of a file of JSON lines. Nothing but the index stays in memory, and no file stays open.

    Forked processes would share the position of an open file, and one would seek away under the other.

    Raises:
        OSError: if there is no file at `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        kept = Index.read(path)
        self.lines = Index.of(self._lines(), lambda: path.stat().st_size) if kept is None else kept

    @abstractmethod
    def _parser(self) -> AbstractContextManager[Callable[[bytes], RankingExample]]:
        """Return what makes an example of a line."""

    @abstractmethod
    def _outline(self, line: bytes) -> RankingExample:
        """Make an example of a line, of whose documents the texts may be missing."""

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> RankingExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[RankingExample]: ...
    def __getitem__(self, index: int | slice) -> RankingExample | list[RankingExample]:
        places = range(len(self))[index]
        with self.path.open("rb") as file, self._parser() as parse:
            if isinstance(places, int):
                return parse(self._line(file, places))
            return [parse(self._line(file, place)) for place in places]

    def __iter__(self) -> Iterator[RankingExample]:
        with self.path.open("rb") as file, self._parser() as parse:
            yield from map(parse, file)

    def outlines(self) -> Iterator[RankingExample]:
        """Yield all examples, of whose documents the texts may be missing."""
        with self.path.open("rb") as file:
            yield from map(self._outline, file)

    def place(self, qid: str) -> int | None:
        """Find the place of an example by its qid; None if there is none."""
        with self.path.open("rb") as file:
            for place in self.lines.places(qid):
                if self._outline(self._line(file, place)).qid == qid:
                    return place
        return None

    def example(self, qid: str) -> RankingExample:
        """Return the example with this qid; raise LookupError if there is none."""
        place = self.place(qid)
        if place is None:
            raise LookupError(f"{str(self.path)!r} has no example with qid {qid!r}")
        return self[place]

    def _line(self, file: BinaryIO, place: int) -> bytes:
        start, end = self.lines.offset[place : place + 2].tolist()
        file.seek(start)
        return file.read(end - start)

    def _lines(self) -> Iterator[Line]:
        offset = 0
        with self.path.open("rb") as file:
            for text in file:
                yield line(offset, self._outline(text))
                offset += len(text)


def line(offset: int, example: RankingExample) -> Line:
    """Take what the index needs from an example whose line begins at a byte."""
    return Line(offset, example.qid, example.docids, example.qrels, _characters(example))


def grade_counts(examples: Iterable[RankingExample]) -> tuple[Column, Column]:
    """Count each example's candidates of its highest grade, and of lower ones: two [N].

    Grades are gains: those below 0 count as 0, and so do candidates without one.
    """
    if isinstance(examples, IndexedExamples):
        return examples.lines.best, examples.lines.lower
    found = np.array([_counts(e.docids, e.qrels) for e in examples], dtype="<u8").reshape(-1, 2)
    return found[:, 0], found[:, 1]


def outlines(examples: Sequence[RankingExample]) -> Iterator[RankingExample]:
    """Yield examples in order, of whose documents the texts may be missing."""
    return examples.outlines() if isinstance(examples, IndexedExamples) else iter(examples)


def longest(examples: Sequence[RankingExample], count: int) -> list[int]:
    """Find the places of `count` examples with the longest queries and instructions, longest first."""
    if isinstance(examples, IndexedExamples):
        lengths = examples.lines.characters.astype(np.int64)
    else:
        lengths = np.array([_characters(example) for example in examples], dtype=np.int64)
    return np.argsort(-lengths, kind="stable")[:count].tolist()


def finder(examples: Sequence[RankingExample]) -> Callable[[str], int | None]:
    """Return what finds the place of an example by its qid; None if there is none."""
    if isinstance(examples, IndexedExamples):
        return cache(examples.place)
    return {example.qid: place for place, example in enumerate(examples)}.get


def _characters(example: RankingExample) -> int:
    return len(example.query) + len(example.instruction)


def _counts(docids: Iterable[str], qrels: Mapping[str, int]) -> tuple[int, int]:
    gains = [max(qrels.get(docid, 0), 0) for docid in docids]
    best = gains.count(max(gains, default=0))
    return best, len(gains) - best


def hashed(qid: str) -> int:
    """Hash a qid to 64 bits."""
    return int.from_bytes(hashlib.blake2b(qid.encode(), digest_size=8).digest(), "little")


def _beside(path: Path) -> Path:
    return path.with_suffix(".index.npy")
