"""From the configuration to a store on disk: read the source, find candidates, split, limit, write."""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rl_rerank import registry
from rl_rerank.config import DataConfig
from rl_rerank.data import bm25, splits
from rl_rerank.data.records import Collection, Omissions, Query, Source
from rl_rerank.data.store import Row, Store, write
from rl_rerank.io import digest

# Part of the fingerprint: raise it when the same files are to give another store.
_VERSION = 4
_LEFT_BEHIND = 24 * 3600

log = logging.getLogger(__name__)


def prepare(config: DataConfig, directory: Path) -> Store:
    """The store of this configuration in `directory`: reopened where it is there already, built otherwise.

    It is built beside its place and renamed, so that a store that was cut off half-way is never opened.
    """
    source = build_source(config)
    wanted = fingerprint(config, source)
    if (store := _open(directory)) is not None:
        if store.fingerprint == wanted:
            return store
        log.warning("the data or their configuration have changed: building %s again", directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        _build(config, source, wanted, temporary)
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
    store = _open(directory)
    return store if store is not None and store.fingerprint == fingerprint(config, build_source(config)) else None


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
    """SHA-256 of the data configuration and of the state of its source."""
    parts = {"version": _VERSION, "config": dataclasses.asdict(config), "state": source.state()}
    return digest.of_json(parts)


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


def _build(config: DataConfig, source: Source, wanted: str, folder: Path) -> None:
    collection, omissions = _by_protocol(source.read(), config.protocol), Omissions()
    log.info("%s: %d documents, %d queries", config.source, len(collection.documents), len(collection.queries))
    assigned = splits.assign(collection.queries, config.seed, omissions)
    runs = _runs(collection, config, omissions)
    rows: dict[str, list[Row]] = {}
    unanswered: dict[str, dict[str, Mapping[str, int]]] = {}
    limits = {"train": config.train_queries, "dev": config.dev_queries, "test": config.test_queries}
    for split, queries in assigned.items():
        is_filled = split == "train" and config.ensure_relevant
        made = [_row(query, collection, runs.get(query.qid, ()), config.depth, is_filled) for query in queries]
        kept = _limited(made, queries, limits[split], config.seed, is_training=split == "train")
        for row in kept:
            if not row.candidates:
                omissions.add("queries skipped for want of candidates", f"{split}, qid {row.qid!r}")
        rows[split] = [row for row in kept if row.candidates]
        # A held-out query that nothing was found for stays in the qrels: leaving it out would flatter every mean.
        unanswered[split] = {row.qid: row.qrels for row in kept if not row.candidates and split != "train"}
    write(
        folder,
        fingerprint=wanted,
        source=config.source,
        rows=rows,
        unanswered=unanswered,
        documents=collection.documents,
        warnings=(*collection.warnings, *omissions.sentences()),
    )


def _by_protocol(collection: Collection, protocol: str) -> Collection:
    if protocol != "arguana":
        return collection
    # The queries are documents of the corpus, and each would find itself first.
    excluded = {query.qid: {query.qid, *collection.excluded.get(query.qid, ())} for query in collection.queries}
    return dataclasses.replace(collection, excluded=excluded)


def _runs(
    collection: Collection, config: DataConfig, omissions: Omissions
) -> Mapping[str, Sequence[tuple[str, float | None]]]:
    """Candidates that are documents of the collection and not excluded, best first."""
    if collection.runs is None:
        return bm25.retrieve(collection.documents, collection.queries, depth=config.depth, excluded=collection.excluded)
    runs: dict[str, list[tuple[str, float | None]]] = {}
    found = 0
    for query in collection.queries:
        runs[query.qid] = []
        for docid, score in collection.runs.get(query.qid, ()):
            if docid in collection.excluded.get(query.qid, ()):
                continue
            if docid not in collection.documents:
                omissions.add("candidates left out, because no document has their docid", f"{docid!r}, {query.qid!r}")
                continue
            runs[query.qid].append((docid, score))
            found += 1
    if not found and any(collection.runs.values()):
        raise ValueError(
            f"data.source={config.source}: no query of the collection has a candidate that is one of its "
            f"{len(collection.documents)} documents; the run belongs to other queries or another corpus"
        )
    return runs


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
    return Row(query.qid, query.text, tuple(candidates), qrels, query.instruction, query.order, query.scores, features)


def _limited(
    rows: list[Row], queries: Sequence[Query], limit: int | None, seed: int, *, is_training: bool
) -> list[Row]:
    """All rows, or the first `limit` usable ones in the seeded order: a smaller limit is a prefix of a larger."""
    if limit is None:
        return rows
    by_qid = {row.qid: row for row in rows}
    ordered = [by_qid[query.qid] for query in splits.by_hash(queries, seed)]
    usable = [row for row in ordered if row.candidates and any(grade >= 1 for grade in row.qrels.values())]
    if is_training:
        usable = [row for row in usable if len({row.qrels.get(docid, 0) for docid, _ in row.candidates}) > 1]
    return usable[:limit]
