"""What a source hands over: a collection, and the notes of what was left out of it."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable


class Document(NamedTuple):
    """What a document says."""

    title: str
    text: str
    images: tuple[str, ...] = ()
    """Paths of image files."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.title.strip() or self.text.strip() or self.images)


class Query(NamedTuple):
    """One query of a collection."""

    qid: str
    text: str
    split: str = ""
    """train, dev or test; empty where the source has no splits, or leaves this query out of them."""
    cluster: str = ""
    """Queries of one cluster always fall into the same split; empty means the query stands alone."""
    instruction: str = ""
    order: tuple[str, ...] | None = None
    """A gold order of docids, best first, where one is known."""
    scores: Mapping[str, float] | None = None
    """docid -> gold score, where known."""
    group: str = ""
    """What evaluations average over beside queries, such as a task or a domain; empty: there is none."""


@dataclass(frozen=True)
class Collection:
    """Documents, queries and judgments as a source read them."""

    documents: Mapping[str, Document]
    queries: Sequence[Query]
    qrels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """qid -> docid -> grade, also for judged documents that are not in `documents`."""
    runs: Mapping[str, Sequence[tuple[str, float | None]]] | None = None
    """qid -> (docid, score), best first; None: candidates are to be found by BM25."""
    excluded: Mapping[str, Set[str]] = field(default_factory=dict)
    """qid -> docids that must not be candidates, such as the paper that a question was made from."""
    warnings: tuple[str, ...] = ()
    """What was left out, a sentence each."""
    features: Mapping[str, Mapping[str, Mapping[str, float | str]]] = field(default_factory=dict)
    """qid -> docid -> what else is known of a candidate, such as its place on a screen."""


@runtime_checkable
class Source(Protocol):
    """Where a collection comes from: a frozen dataclass whose fields are its parameters.

    A field named `path` is given `data.path`.
    """

    def read(self) -> Collection:
        """Read everything."""
        ...

    def state(self) -> str:
        """Changes whenever what `read` returns may change: a digest of the files, or versions."""
        ...


class Omissions:
    """Counts what a reader leaves out, by reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, place: str) -> None:
        """Note one case; `reason` reads on from a number, as in `empty queries were skipped`."""
        self._counts[reason] += 1
        self._first.setdefault(reason, place)

    def sentences(self) -> tuple[str, ...]:
        """One sentence a reason, with the number of cases and the first of them."""
        return tuple(f"{reason}: {count} (first: {self._first[reason]})" for reason, count in self._counts.items())
