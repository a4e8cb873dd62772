"""Several collections as one, each with its own documents, queries and candidates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_rerank import registry
from rl_rerank.config import build
from rl_rerank.data import splits
from rl_rerank.data.records import Collection, Document, Omissions, Query, Source
from rl_rerank.io import digest


@dataclass(kw_only=True)
class Part:
    """One collection of a union."""

    source: str = "collection"
    path: str | None = None
    """Its folder or file, relative to data.path."""
    params: dict[str, Any] = field(default_factory=dict)
    """Further parameters of its source."""
    splits: list[str] = field(default_factory=lambda: list(splits.SPLITS))
    """The splits whose queries are used; the others are left out."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.splits if name not in splits.SPLITS]:
            raise ValueError(f"splits must be among {', '.join(splits.SPLITS)}; got {unknown[0]!r}")


@dataclass(frozen=True)
class UnionOfCollections:
    """Reads collections by their sources. The qid q of the part p becomes p:q, and so do docids.

    A part is split as it would be alone: by its own splits, or by hash; a tenth of train becomes dev if it has no dev.
    Its name is the group of its queries, unless these have groups, so that evaluations also give means by part.
    """

    parts: Mapping[str, Mapping[str, Any]]
    """Name -> {source, path, params, splits}; docs/data.md."""
    path: str = ""
    """The folder that the parts' paths are relative to."""
    seed: int = 1
    """Seed of the splits of parts that have none."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("data.params.parts must name at least one collection")
        for name in self.parts:
            if not name or ":" in name or len(name.split()) != 1:
                raise ValueError(
                    f"data.params.parts: a name stands before the ids of its queries and documents, so it must be one "
                    f"word without a colon; got {name!r}"
                )
        _ = self._parts  # Parts that cannot be read as settings are refused now.

    @property
    def _parts(self) -> dict[str, Part]:
        return {name: build(Part, dict(part), f"data.params.parts.{name}.") for name, part in self.parts.items()}

    def read(self) -> Collection:
        """Read every part.

        Raises:
            ValueError: if some parts bring candidates and others do not.
        """
        omissions, warnings = Omissions(), list[str]()
        read: dict[str, Collection] = {}
        for name, part in self._parts.items():
            found = self._source(name, part).read()
            warnings += [f"{name}: {warning}" for warning in found.warnings]
            read[name] = dataclasses.replace(found, queries=_divided(name, found.queries, part, self.seed, omissions))
        without = [name for name, collection in read.items() if collection.runs is None]
        if without:
            raise ValueError(
                f"data.params.parts.{without[0]} brings no candidates, and BM25 over the union would find documents of "
                "other parts; give the part a run, such as run.bm25.trec in its folder"
            )
        return Collection(
            _Documents({name: collection.documents for name, collection in read.items()}),
            [query for collection in read.values() for query in collection.queries],
            _all(read, "qrels", lambda name, grades: {_id(name, d): grade for d, grade in grades.items()}),
            _all(read, "runs", lambda name, run: [(_id(name, docid), score) for docid, score in run]),
            _all(read, "excluded", lambda name, docids: {_id(name, docid) for docid in docids}),
            (*warnings, *omissions.sentences()),
            _all(read, "features", lambda name, known: {_id(name, d): values for d, values in known.items()}),
        )

    def state(self) -> str:
        """A digest of the parts' settings and states."""
        parts = self._parts.items()
        return digest.of_json(
            {
                n: [dataclasses.asdict(part) | digest.of_target(part.source), self._source(n, part).state()]
                for n, part in parts
            }
        )

    def _source(self, name: str, part: Part) -> Source:
        params = dict(part.params)
        if part.path is not None:
            params["path"] = str(Path(self.path) / part.path)
        try:
            return registry.build("source", part.source, params)
        except (ValueError, LookupError) as e:
            raise type(e)(f"data.params.parts.{name}: {e}") from e


class _Documents(Mapping[str, Document]):
    """The documents of all parts; texts stay where their sources keep them."""

    def __init__(self, parts: Mapping[str, Mapping[str, Document]]) -> None:
        self._parts = parts

    def __getitem__(self, docid: str) -> Document:
        name, _, own = docid.partition(":")
        if name not in self._parts:
            raise KeyError(docid)
        return self._parts[name][own]

    def __iter__(self) -> Iterator[str]:
        return (_id(name, docid) for name, documents in self._parts.items() for docid in documents)

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))


def _id(name: str, own: str) -> str:
    return f"{name}:{own}"


def _all(read: Mapping[str, Collection], record: str, named: Any) -> dict[str, Any]:
    """A table of all parts by qid.

    Args:
        record: the table's name in a collection.
        named: takes a part's name and one query's record and puts the name before its docids.
    """
    return {
        _id(name, qid): named(name, value)
        for name, collection in read.items()
        for qid, value in getattr(collection, record).items()
    }


def _divided(name: str, queries: Sequence[Query], part: Part, seed: int, omissions: Omissions) -> list[Query]:
    """The queries of a part in the splits that are used, with the part's name before their ids."""
    assigned = splits.assign(queries, seed, omissions)
    return [_query(name, query, split) for split in part.splits for query in assigned[split]]


def _query(name: str, query: Query, split: str) -> Query:
    return query._replace(
        qid=_id(name, query.qid),
        split=split,
        cluster=query.cluster and _id(name, query.cluster),
        order=None if query.order is None else tuple(_id(name, docid) for docid in query.order),
        scores=None if query.scores is None else {_id(name, d): score for d, score in query.scores.items()},
        group=query.group or name,
    )
