"""The on-disk chunks of a synthesis: inputs and outputs.

Chunks are written atomically, so a killed run resumes with the missing ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rl_rerank.data import Store, examples
from rl_rerank.data.records import Collection, Document
from rl_rerank.io.files import write_json, write_text
from rl_rerank.types import Candidate, RankingExample


@dataclass
class Record:
    """Counts, usage and failures of one chunk or of all."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Step -> name -> number."""
    usage: Counter[str] = field(default_factory=Counter)
    """Engine usage, by name."""
    failures: Counter[str] = field(default_factory=Counter)
    """Reasons for dropped examples without a teacher's answer."""

    def add(self, other: Record) -> None:
        """Add another record to this one."""
        for step, counts in other.counts.items():
            self.counts.setdefault(step, Counter()).update(counts)
        self.usage.update(other.usage)
        self.failures.update(other.failures)

    def to_json(self) -> dict[str, Any]:
        return {"counts": self.counts, "usage": self.usage, "failures": self.failures}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Record:
        counts = {step: Counter(found) for step, found in values["counts"].items()}
        return Record(counts, Counter(values["usage"]), Counter(values["failures"]))


class Chunks(Protocol):
    """Examples in numbered chunks."""

    def numbers(self) -> Sequence[int]: ...

    def read(self, number: int) -> list[RankingExample]: ...


class Parts:
    """The chunks in a folder, which is created if missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def numbers(self) -> list[int]:
        """List the chunk numbers in order."""
        return sorted(int(path.stem) for path in self.folder.glob("*.jsonl"))

    def read(self, number: int) -> list[RankingExample]:
        return list(examples.read(self.path(number)))

    def path(self, number: int) -> Path:
        """Build the path of a chunk's examples."""
        return self.folder / f"{number:07d}.jsonl"

    def write(self, number: int, made: Sequence[RankingExample], record: Record) -> None:
        """Write a chunk; its examples come last and mark it as complete."""
        write_json(self.folder / f"{number:07d}.json", record.to_json())
        write_text(self.path(number), "".join(map(examples.line, made)))

    def record(self) -> Record:
        """Sum the records of all chunks."""
        total = Record()
        for number in self.numbers():
            total.add(Record.from_json(json.loads((self.folder / f"{number:07d}.json").read_text(encoding="utf-8"))))
        return total


class Queries:
    """The training split of a store."""

    def __init__(self, store: Store, size: int) -> None:
        self._store = store
        self._size = size

    def numbers(self) -> range:
        return range(-(-self._store.size("train") // self._size))

    def read(self, number: int) -> list[RankingExample]:
        return self._store.examples("train")[number * self._size : (number + 1) * self._size]


class Passages:
    """One example per document; the document serves as the query until a step writes one."""

    def __init__(self, collection: Collection, size: int) -> None:
        self._documents = [(d, doc) for d, doc in collection.documents.items() if (doc.text or doc.title).strip()]
        self._size = size

    def numbers(self) -> range:
        return range(-(-len(self._documents) // self._size))

    def read(self, number: int) -> list[RankingExample]:
        some = self._documents[number * self._size : (number + 1) * self._size]
        return [_passage(docid, document) for docid, document in some]


def _passage(docid: str, document: Document) -> RankingExample:
    shown = Candidate(docid, document.text, document.title, document.images, 1)
    query = document.text if document.text.strip() else document.title
    return RankingExample(docid, query, (shown,), {docid: 1}, split="train", provenance={"query": "passage"})


def walk(chunks: Chunks) -> Iterator[RankingExample]:
    """Iterate over all examples in order."""
    for number in chunks.numbers():
        yield from chunks.read(number)
