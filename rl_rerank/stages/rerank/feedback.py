"""Relevance feedback: the collection is searched again, by query vectors that learned an earlier stage's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rl_rerank.config import Config, FeedbackConfig
from rl_rerank.data.prepare import EMBEDDINGS, whole_collection
from rl_rerank.metrics.agreement import by_place, kendall_tau
from rl_rerank.paradigms.ordering import rank_by_order
from rl_rerank.retrieval import feedback
from rl_rerank.retrieval.dense import Dense
from rl_rerank.retrieval.search import nearest
from rl_rerank.stages.rerank.fused import rankings
from rl_rerank.types import Ranking, RankingExample

FILE = "feedback.jsonl"
"""In the stage's folder: of each query, the loss and Kendall's tau of the retriever's vector against the order that was
learned, and those of the new one."""


def searched(
    config: Config, name: str, settings: FeedbackConfig, examples: Sequence[RankingExample]
) -> tuple[list[Ranking], list[dict[str, Any]]]:
    """Search again: rankings of `data.depth` documents by cosine, and the rows of `FILE`."""
    retriever = config.data.first_stage
    assert isinstance(retriever, Dense)
    collection = whole_collection(config.data)
    cache = Path(config.run_dir) / EMBEDDINGS
    found = retriever.vectors(collection.documents, collection.queries, cache)
    places = {docid: place for place, docid in enumerate(found.docids)}
    of_query = {query.qid: place for place, query in enumerate(collection.queries)}
    learned = rankings(config, settings.of, f"{name}.feedback.of")
    asked, rows = list[np.ndarray](), list[dict[str, Any]]()
    for example in examples:
        own = found.queries[of_query[example.qid]].astype(np.float64)
        # Another system's run may lack a query, whose vector stays as it is.
        docids = learned[example.qid].docids if example.qid in learned else ()
        order = [docid for docid in docids if docid in places][: settings.top]
        shown = found.documents[[places[docid] for docid in order]].astype(np.float64)
        new = feedback.moved(own, shown, steps=settings.steps, learning_rate=settings.learning_rate)
        asked.append(new / np.linalg.norm(new))
        rows.append({"qid": example.qid, **_compared(order, shown, own, new)})
    qids = [example.qid for example in examples]
    vectors = np.array(asked, np.float32)
    near = nearest(qids, vectors, found.docids, found.documents, depth=config.data.depth, excluded=collection.excluded)
    return [_ranking(qid, near.get(qid, [])) for qid in qids], rows


def _compared(order: Sequence[str], shown: np.ndarray, own: np.ndarray, new: np.ndarray) -> dict[str, Any]:
    scale, gold = feedback.scaled(own, shown), by_place(order)
    row: dict[str, Any] = {"documents": len(order)}
    for when, vector in (("before", own), ("after", new)):
        row[f"loss_{when}"] = feedback.loss(vector, shown, scale)
        similar = dict(zip(order, (shown @ vector).tolist(), strict=True))
        row[f"tau_{when}"] = kendall_tau(similar, gold) if len(order) > 1 else None
    return row


def _ranking(qid: str, found: Sequence[tuple[str, float]]) -> Ranking:
    return replace(rank_by_order(qid, [docid for docid, _ in found]), raw_scores=dict(found))
