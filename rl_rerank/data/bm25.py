"""First-stage candidates by BM25, for collections that bring no run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from rl_rerank.config import FirstStageConfig
from rl_rerank.data.records import Document, Query
from rl_rerank.data.terms import terms
from rl_rerank.io import trec

# Anserini's parameters for its plain BM25 baselines.
K1, B = 0.9, 0.4


@dataclass(kw_only=True)
class BM25(FirstStageConfig):
    """data.first_stage=bm25: BM25 over titles and texts, also for a source that brings a run."""

    kind: str = "bm25"

    def retrieve(
        self,
        documents: Mapping[str, Document],
        queries: Sequence[Query],
        *,
        depth: int,
        excluded: Mapping[str, Set[str]],
        language: str,
        cache: Path,
    ) -> dict[str, list[tuple[str, float | None]]]:
        return retrieve(documents, queries, depth=depth, excluded=excluded, language=language)


def retrieve(
    documents: Mapping[str, Document],
    queries: Sequence[Query],
    *,
    depth: int,
    excluded: Mapping[str, Set[str]] | None = None,
    language: str = "en",
) -> dict[str, list[tuple[str, float | None]]]:
    """The `depth` best documents of each query; see `Index.search`."""
    return Index(documents, language).search(queries, depth=depth, excluded=excluded)


class Index:
    """Documents to be searched: bm25s "lucene", k1=0.9, b=0.4, over the terms of `data/terms.py`."""

    def __init__(self, documents: Mapping[str, Document], language: str = "en") -> None:
        import bm25s  # With numba, which every command would import otherwise.

        # bm25s sets its own logger to debug and reports every step.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._docids, self._language = list(documents), language
        self._bm25 = bm25s.BM25(method="lucene", k1=K1, b=B)
        corpus = terms([f"{d.title} {d.text}".strip() for d in documents.values()], language)
        self._is_empty = not any(corpus)
        if not self._is_empty:
            self._bm25.index(corpus, show_progress=False)

    def search(
        self, queries: Sequence[Query], *, depth: int, excluded: Mapping[str, Set[str]] | None = None
    ) -> dict[str, list[tuple[str, float | None]]]:
        """The `depth` best documents of each query, with scores.

        `excluded` (qid -> docids) are passed over, and documents that share no term with the query are no candidates.
        Equal scores are ordered as trec_eval orders them.
        """
        runs: dict[str, list[tuple[str, float | None]]] = {query.qid: [] for query in queries}
        if self._is_empty:
            return runs
        # A query without one known term has no candidates, and bm25s fails on it.
        vocabulary = self._bm25.vocab_dict
        searched = terms([query.text for query in queries], self._language)
        known = [[term for term in of_query if term in vocabulary] for of_query in searched]
        asked = [(query, found) for query, found in zip(queries, known, strict=True) if found]
        if not asked:
            return runs
        excluded = excluded or {}
        spare = max(map(len, excluded.values()), default=0)
        k = min(depth + spare, len(self._docids))
        found, their_scores = self._bm25.retrieve([found for _, found in asked], k=k, show_progress=False)
        for (query, _), numbers, values in zip(asked, found, their_scores, strict=True):
            scores = {self._docids[n]: float(s) for n, s in zip(numbers, values, strict=True) if s > 0}
            kept = [docid for docid in trec.trec_order(scores) if docid not in excluded.get(query.qid, ())]
            runs[query.qid] = [(docid, scores[docid]) for docid in kept[:depth]]
        return runs
