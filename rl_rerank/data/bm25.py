"""First-stage candidates by BM25, for collections that bring no run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set

import bm25s
import Stemmer

from rl_rerank import trec
from rl_rerank.data.records import Document, Query

# Anserini's parameters for its plain BM25 baselines.
K1, B = 0.9, 0.4


def retrieve(
    documents: Mapping[str, Document],
    queries: Sequence[Query],
    *,
    depth: int,
    excluded: Mapping[str, Set[str]] | None = None,
) -> dict[str, list[tuple[str, float | None]]]:
    """The `depth` best documents of each query: bm25s "lucene", k1=0.9, b=0.4, Porter stems, English stop words.

    `excluded` (qid -> docids) are passed over, and documents that share no term with the query are no candidates.
    Equal scores are ordered as trec_eval orders them.
    """
    # bm25s sets its own logger to debug and reports every step.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    runs: dict[str, list[tuple[str, float | None]]] = {query.qid: [] for query in queries}
    docids = list(documents)
    corpus = _tokens([f"{d.title} {d.text}".strip() for d in documents.values()])
    if not any(corpus):
        return runs
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index(corpus, show_progress=False)
    # A query without one known term has no candidates, and bm25s fails on it.
    known = [[term for term in terms if term in index.vocab_dict] for terms in _tokens([q.text for q in queries])]
    asked = [(query, terms) for query, terms in zip(queries, known, strict=True) if terms]
    if not asked:
        return runs
    excluded = excluded or {}
    spare = max(map(len, excluded.values()), default=0)
    found = index.retrieve([terms for _, terms in asked], k=min(depth + spare, len(docids)), show_progress=False)
    assert isinstance(found, bm25s.Results)
    for (query, _), numbers, values in zip(asked, found.documents, found.scores, strict=True):
        scores = {docids[n]: float(s) for n, s in zip(numbers, values, strict=True) if s > 0}
        kept = [docid for docid in trec.order(scores) if docid not in excluded.get(query.qid, ())]
        runs[query.qid] = [(docid, scores[docid]) for docid in kept[:depth]]
    return runs


def _tokens(texts: list[str]) -> list[list[str]]:
    stemmer = Stemmer.Stemmer("porter")
    tokens = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
    assert isinstance(tokens, list)
    return tokens
