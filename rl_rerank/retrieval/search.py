"""Exact nearest neighbours by cosine. All embeddings are kept in memory.

Shapes: Q queries, N documents, D dimensions; vectors have length 1.
"""

from collections.abc import Mapping, Sequence, Set

import numpy as np

from rl_rerank.data.records import Document
from rl_rerank.io import trec

SIMILARITIES = 2**24
"""Numbers of a block of similarities, 64 MiB."""


def searchable(documents: Mapping[str, Document]) -> dict[str, str]:
    """Map the docids of documents with a text to title and text, as BM25 and prompts show them."""
    texts = {docid: f"{document.title} {document.text}".strip() for docid, document in documents.items()}
    return {docid: text for docid, text in texts.items() if text}


def nearest(
    qids: Sequence[str],
    queries: np.ndarray,
    docids: Sequence[str],
    documents: np.ndarray,
    *,
    depth: int,
    excluded: Mapping[str, Set[str]],
) -> dict[str, list[tuple[str, float]]]:
    """Find the `depth` documents with the highest cosine of each query, with their cosines.

    Args:
        queries: [Q, D].
        documents: [N, D].
        excluded: qid -> docids that are passed over.

    Returns:
        qid -> (docid, cosine), best first; equal cosines are ordered as trec_eval orders them.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    block = max(SIMILARITIES // max(len(docids), 1), 1)
    for start in range(0, len(qids) if docids else 0, block):
        similarities = queries[start : start + block] @ documents.T
        for qid, row in zip(qids[start : start + block], similarities, strict=True):
            banned = excluded.get(qid, ())
            last = len(docids) - min(depth + len(banned), len(docids))
            # All documents down to the last cosine that is needed, so that the docid decides among equal ones there.
            near = np.flatnonzero(row >= np.partition(row, last)[last])
            scores = {docids[int(n)]: float(row[n]) for n in near}
            kept = [docid for docid in trec.trec_order(scores) if docid not in banned]
            found[qid] = [(docid, scores[docid]) for docid in kept[:depth]]
    return found
