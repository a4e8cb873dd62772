"""Collections that the package ir_datasets knows by id, such as `beir/scifact/test`. It may download them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_rerank.data.records import Collection, Document, Omissions, Query
from rl_rerank.data.sources.collection import ranked
from rl_rerank.data.sources.reading import digest
from rl_rerank.requirements import load


@dataclass(frozen=True)
class IRDatasets:
    """Reads up to three datasets over the same documents.

    Candidates are those of `run`, or else the datasets' own scored documents; then only documents that are candidates
    or judged are read. With neither, all documents are read and searched by BM25.
    """

    test: str = ""
    """Id of the dataset whose queries are the test split."""
    dev: str = ""
    train: str = ""
    run: str = ""
    """A TREC run file."""

    requires = ("ir_datasets",)

    def __post_init__(self) -> None:
        if not (self.test or self.dev or self.train):
            raise ValueError("data.source=ir_datasets needs an id: data.params.test=ID, or one for dev or train")

    def read(self) -> Collection:
        """Read everything."""
        library = load("ir_datasets", "data.source=ir_datasets")
        datasets = {split: library.load(name) for split, name in self._ids().items()}
        omissions = Omissions()
        queries: list[Query] = []
        qrels: dict[str, dict[str, int]] = {}
        for split, dataset in datasets.items():
            queries += _queries(dataset, split, omissions)
            for judgment in dataset.qrels_iter() if dataset.has_qrels() else ():
                qrels.setdefault(judgment.query_id, {})[judgment.doc_id] = int(judgment.relevance)
        runs = ranked(Path(self.run)) if self.run else _scored(datasets.values())
        needed = (
            None
            if runs is None
            else {d for run in runs.values() for d, _ in run} | {d for q in qrels.values() for d in q}
        )
        documents = _documents(next(iter(datasets.values())), needed, omissions)
        return Collection(documents, queries, qrels, runs, warnings=omissions.sentences())

    def state(self) -> str:
        """The ids, the package's version and a digest of the run."""
        parts = [
            *self._ids().items(),
            load("ir_datasets", "data.source=ir_datasets").__version__,
            digest([Path(self.run)]) if self.run else "",
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _ids(self) -> dict[str, str]:
        return {split: name for split in ("train", "dev", "test") if (name := getattr(self, split))}


def _queries(dataset: Any, split: str, omissions: Omissions) -> Iterator[Query]:
    for query in dataset.queries_iter():
        if (text := query.default_text()).strip():
            yield Query(query.query_id, text, split)
        else:
            omissions.add("empty queries skipped", f"qid {query.query_id!r}")


def _scored(datasets: Iterable[Any]) -> dict[str, list[tuple[str, float | None]]] | None:
    """Every dataset's scored documents, best first; None where one has none."""
    runs: dict[str, list[tuple[str, float | None]]] = {}
    for dataset in datasets:
        if not dataset.has_scoreddocs():
            return None
        scores: dict[str, dict[str, float]] = {}
        for found in dataset.scoreddocs_iter():
            scores.setdefault(found.query_id, {})[found.doc_id] = float(found.score)
        runs |= {
            qid: [(d, given[d]) for d in sorted(given, key=lambda d, g=given: -g[d])] for qid, given in scores.items()
        }
    return runs


def _documents(dataset: Any, needed: set[str] | None, omissions: Omissions) -> Mapping[str, Document]:
    """All documents, or those needed; one that has both a title and a text gives them apart."""
    found = dataset.docs_iter() if needed is None else dataset.docs_store().get_many_iter(sorted(needed))
    documents: dict[str, Document] = {}
    for doc in found:
        title, text = getattr(doc, "title", None), getattr(doc, "text", None)
        document = Document(title, text) if title is not None and text is not None else Document("", doc.default_text())
        if document.is_empty:
            omissions.add("empty documents left out", f"docid {doc.doc_id!r}")
        else:
            documents[doc.doc_id] = document
    return documents
