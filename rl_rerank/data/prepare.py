"""From the configuration to a store on disk: read the source, find candidates, split, limit, write."""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rl_rerank import registry
from rl_rerank.config import DataConfig
from rl_rerank.data import bm25, splits
from rl_rerank.data.records import Collection, Document, Omissions, Query, Source
from rl_rerank.data.store import Row, Store, Writer
from rl_rerank.io import digest

# Part of the fingerprint: raise it when the same files are to give another store.
_VERSION = 4
_LEFT_BEHIND = 24 * 3600
EMBEDDINGS = "embeddings"
"""The folder beside the store in which a first stage keeps its embeddings: a rebuilt store finds them again."""

log = logging.getLogger(__name__)


def prepare(config: DataConfig, directory: Path) -> Store:
    """The store of this configuration in `directory`: reopened where it is there already, built otherwise.

    It is built beside its place and renamed, so that a store that was cut off half-way is never opened.
    """
    source = build_source(config)
    if (store := _left_alone(config, directory)) is not None:
        log.warning("data.path=%s is not on this machine: the run's own data in %s are used", config.path, directory)
        return store
    wanted = fingerprint(config, source)
    if (store := _open(directory)) is not None:
        if _holds(store, config, source, wanted):
            return store
        log.warning("the data or their configuration have changed: building %s again", directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        _build(config, source, wanted, temporary, directory.parent / EMBEDDINGS)
        temporary.chmod(0o755)
        _put(temporary, directory, wanted)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    store = Store(directory)
    for warning in store.warnings:
        log.warning("data: %s", warning)
    return store


def reopened(config: DataConfig, directory: Path) -> Store | None:
    """The store of this configuration, if `directory` holds it; nothing is built or changed."""
    if (left := _left_alone(config, directory)) is not None:
        return left
    store, source = _open(directory), build_source(config)
    return store if store is not None and _holds(store, config, source, fingerprint(config, source)) else None


def build_source(config: DataConfig) -> Source:
    """The source that the configuration names."""
    plugin = registry.find("source", config.source)
    params = dict(config.params)
    fields = {f.name: f for f in dataclasses.fields(plugin)} if dataclasses.is_dataclass(plugin) else {}
    if config.path is not None:
        if fields and "path" not in fields:
            raise ValueError(f"data.source={config.source} takes no data.path; got {config.path!r}")
        params["path"] = config.path
    if config.protocol == "bright":
        if "spaced" not in fields:
            raise ValueError(f"data.protocol=bright: data.source={config.source} reads no docids with white space")
        params["spaced"] = True
    for name, f in fields.items():
        is_required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if is_required and name not in params:
            setting = "data.path" if name == "path" else f"data.params.{name}"
            raise ValueError(f"data.source={config.source} needs {setting}; give {setting}=VALUE")
    return registry.build("source", config.source, params)


def fingerprint(config: DataConfig, source: Source) -> str:
    """SHA-256 of the data configuration and of the state of its source; not of where that lies."""
    recorded = {name: value for name, value in config.recorded().items() if name != "path"}
    code = digest.of_target(config.source)
    if code:
        recorded["source"] = config.source.rpartition(":")[2]
    return _fingerprint(config, recorded | code, source)


def _holds(store: Store, config: DataConfig, source: Source, wanted: str) -> bool:
    """Whether a store is of this configuration, also if it was built when the path was a part of the fingerprint."""
    if store.fingerprint == wanted or digest.of_target(config.source):
        return store.fingerprint == wanted
    return store.fingerprint == _fingerprint(config, config.recorded(), source)


def _fingerprint(config: DataConfig, recorded: dict[str, Any], source: Source) -> str:
    parts = {"version": _VERSION, "config": recorded, "state": source.state()}
    if config.first_stage is not None:
        parts["first_stage"] = config.first_stage.state()
    return digest.of_json(parts)


def has_store(directory: Path) -> bool:
    """Whether a folder holds a finished store, of whatever data."""
    return _open(directory) is not None


def _left_alone(config: DataConfig, directory: Path) -> Store | None:
    """The store of a run that was brought to a machine without the data that it was built from."""
    return None if config.path is None or Path(config.path).exists() else _open(directory)


def _open(directory: Path) -> Store | None:
    try:
        return Store(directory)
    except FileNotFoundError:
        return None


def _put(temporary: Path, directory: Path, wanted: str) -> None:
    """Rename the finished store to its place. Where another process was faster with the same one, its store stays."""
    stale = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        if (store := _open(directory)) is None or store.fingerprint != wanted:
            with contextlib.suppress(FileNotFoundError):
                directory.rename(stale / "old")
            temporary.rename(directory)
    except OSError:
        if (store := _open(directory)) is None or store.fingerprint != wanted:
            raise
    finally:
        shutil.rmtree(stale, ignore_errors=True)


def _sweep(directory: Path) -> None:
    """Remove what builds that were cut off have left; younger folders may belong to a build that is running."""
    for left in directory.parent.glob(f".{directory.name}.*"):
        if left.is_dir() and time.time() - left.stat().st_mtime > _LEFT_BEHIND:
            shutil.rmtree(left, ignore_errors=True)


def _build(config: DataConfig, source: Source, wanted: str, folder: Path, cache: Path) -> None:
    collection, omissions = _read(config, source), Omissions()
    log.info("%s: %d documents, %d queries", config.source, len(collection.documents), len(collection.queries))
    if config.folds is None:
        assigned = splits.assign(collection.queries, config.seed, omissions)
    else:
        assigned = splits.fold(collection.queries, config.seed, config.folds, config.fold)
    found = _Candidates(collection, config, omissions, cache)
    writer = Writer(folder, collection.documents)
    unanswered = _Unanswered(omissions)
    limits = {"train": config.train_queries, "dev": config.dev_queries, "test": config.test_queries}
    for qid in _judged_only(collection):
        omissions.add("judged queries left out, because no query has their qid", f"qid {qid!r}")
    for split, queries in assigned.items():
        is_filled = split == "train" and config.ensure_relevant
        chosen = queries if limits[split] is None else splits.by_hash(queries, config.seed)
        made = (_row(query, collection, found.of(query.qid), config.depth, is_filled) for query in chosen)
        kept = _limited(_noted(made, collection, omissions), limits[split], omissions, split)
        writer.split(split, unanswered.apart(kept, split))
    found.check()
    writer.finish(
        fingerprint=wanted,
        source=config.source,
        unanswered=unanswered.qrels,
        groups=unanswered.groups,
        asked={split: len(queries) for split, queries in assigned.items() if queries},
        warnings=(*collection.warnings, *omissions.sentences()),
    )


def whole_collection(config: DataConfig) -> Collection:
    """All documents and queries of the source, as the store is built from them."""
    return _read(config, build_source(config))


def _read(config: DataConfig, source: Source) -> Collection:
    collection = _by_protocol(source.read(), config.protocol)
    if config.fields == "both":
        return collection
    return dataclasses.replace(collection, documents=_Part(collection.documents, config.fields))


def _by_protocol(collection: Collection, protocol: str) -> Collection:
    if protocol != "arguana":
        return collection
    # The queries are documents of the corpus, and each would find itself first.
    excluded = {query.qid: {query.qid, *collection.excluded.get(query.qid, ())} for query in collection.queries}
    return dataclasses.replace(collection, excluded=excluded)


class _Part(Mapping[str, Document]):
    """Documents of which only the title or the text is known. One that lacks it keeps what it has."""

    def __init__(self, documents: Mapping[str, Document], part: Literal["title", "text"]) -> None:
        self._documents, self._part = documents, part

    def __getitem__(self, docid: str) -> Document:
        document = self._documents[docid]
        title, text = (document.title, "") if self._part == "title" else ("", document.text)
        return document._replace(title=title, text=text) if (title or text).strip() else document

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)


class _Candidates:
    """Candidates that are documents of the collection and not excluded, best first, found when they are asked for."""

    def __init__(self, collection: Collection, config: DataConfig, omissions: Omissions, cache: Path) -> None:
        self._collection, self._omissions, self._source = collection, omissions, config.source
        self._runs = collection.runs
        self._is_retrieved = config.first_stage is not None or collection.runs is None
        self._given = self._found = 0
        if self._is_retrieved:
            retriever = config.first_stage or bm25.BM25()
            self._runs = retriever.retrieve(
                collection.documents,
                collection.queries,
                depth=config.depth,
                excluded=collection.excluded,
                language=config.language,
                cache=cache,
            )

    def of(self, qid: str) -> Sequence[tuple[str, float | None]]:
        """The (docid, score) of one query."""
        assert self._runs is not None
        run = self._runs.get(qid, ())
        if self._is_retrieved:
            return run
        excluded = self._collection.excluded.get(qid, ())
        kept: list[tuple[str, float | None]] = []
        for docid, score in run:
            if docid in excluded:
                continue
            if docid in self._collection.documents:
                kept.append((docid, score))
            else:
                self._omissions.add("candidates left out, because no document has their docid", f"{docid!r}, {qid!r}")
        self._given += len(run)
        self._found += len(kept)
        return kept

    def check(self) -> None:
        """Raise ValueError if no candidate of any query that was asked for is a document."""
        if self._given and not self._found:
            raise ValueError(
                f"data.source={self._source}: no query of the collection has a candidate that is one of its "
                f"{len(self._collection.documents)} documents; the run belongs to other queries or another corpus"
            )


def _row(
    query: Query, collection: Collection, run: Sequence[tuple[str, float | None]], depth: int, is_filled: bool
) -> Row:
    qrels = collection.qrels.get(query.qid, {})
    candidates = list(run[:depth])
    if is_filled and candidates and not any(qrels.get(docid, 0) >= 1 for docid, _ in candidates):
        excluded = collection.excluded.get(query.qid, ())
        relevant = [d for d, g in qrels.items() if g >= 1 and d in collection.documents and d not in excluded]
        if relevant:
            position = {docid: place for place, (docid, _) in enumerate(run)}
            best = min(relevant, key=lambda d: (-qrels[d], position.get(d, len(run)), d))
            candidates[depth - 1 :] = []
            candidates.append((best, dict(run).get(best)))
    known = collection.features.get(query.qid, {})
    features = {docid: known[docid] for docid, _ in candidates if docid in known} or None
    return Row(
        query.qid,
        query.text,
        tuple(candidates),
        qrels,
        query.instruction,
        query.order,
        query.scores,
        features,
        query.group,
    )


def _judged_only(collection: Collection) -> list[str]:
    """The qids that are judged and belong to no query."""
    asked = {query.qid for query in collection.queries}
    return [qid for qid in collection.qrels if qid not in asked]


def _noted(rows: Iterator[Row], collection: Collection, omissions: Omissions) -> Iterator[Row]:
    """The same rows, with a note of relevant documents that no ranking can find."""
    for row in rows:
        for docid, grade in row.qrels.items():
            if grade >= 1 and docid not in collection.documents:
                omissions.add("relevant documents that the collection lacks", f"{docid!r}, qid {row.qid!r}")
        yield row


def _limited(rows: Iterator[Row], limit: int | None, omissions: Omissions, split: str) -> Iterator[Row]:
    """All rows, or the first `limit` usable ones of the seeded order: a smaller limit is a prefix of a larger."""
    return rows if limit is None else islice(_usable(rows, omissions, split), limit)


def _usable(rows: Iterator[Row], omissions: Omissions, split: str) -> Iterator[Row]:
    for row in rows:
        place = f"{split}, qid {row.qid!r}"
        if not any(grade >= 1 for grade in row.qrels.values()):
            omissions.add("queries passed over, because no document is judged relevant", place)
        elif not row.candidates:
            omissions.add("queries passed over, because they have no candidate", place)
        elif split == "train" and len({row.qrels.get(docid, 0) for docid, _ in row.candidates}) == 1:
            omissions.add("training queries passed over, because all candidates have the same grade", place)
        else:
            yield row


class _Unanswered:
    """The held-out queries that nothing was found for.

    They stay in the qrels: leaving them out would flatter every mean.
    """

    def __init__(self, omissions: Omissions) -> None:
        self._omissions = omissions
        self.qrels: dict[str, dict[str, Mapping[str, int]]] = {}
        """split -> qid -> docid -> grade."""
        self.groups: dict[str, dict[str, str]] = {}
        """split -> qid -> group, where there is one."""

    def apart(self, rows: Iterator[Row], split: str) -> Iterator[Row]:
        """The rows that have a candidate."""
        for row in rows:
            if row.candidates:
                yield row
                continue
            self._omissions.add("queries skipped for want of candidates", f"{split}, qid {row.qid!r}")
            if split != "train":
                self.qrels.setdefault(split, {})[row.qid] = row.qrels
                if row.group:
                    self.groups.setdefault(split, {})[row.qid] = row.group
