"""MTEB with an exported model of any paradigm: a whole list is ranked at once, as the model was trained to.

    import mteb
    from rl_rerank.serving.mteb import MTEBReranker

    mteb.evaluate(MTEBReranker.load("path/to/model"), mteb.get_tasks(tasks=["AskUbuntuDupQuestions"]))

MTEB's own protocol of cross-encoders asks for the score of each pair, which listwise models do not have; this is its
protocol of searches, restricted to tasks that bring candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rl_rerank.requirements import load
from rl_rerank.serving.reranker import Reranker

QUERIES_AT_ONCE = 64
"""Queries that are ranked together."""


class MTEBReranker:
    """Ranks the candidates of MTEB's reranking tasks with `Reranker`."""

    def __init__(self, reranker: Reranker, name: str = "rl-rerank/exported", revision: str = "local") -> None:
        """
        Args:
            name: organisation/model, under which MTEB files results.
        """
        self.reranker = reranker
        meta = load("mteb.models.model_meta", "MTEBReranker").ModelMeta
        self.mteb_model_meta: Any = meta.create_empty({"name": name, "revision": revision})
        self._corpus: dict[str, Mapping[str, Any]] = {}

    @classmethod
    def load(cls, path: str, name: str = "rl-rerank/exported", **arguments: Any) -> MTEBReranker:
        """Load an exported folder or a hub id; `arguments` are those of `Reranker.load`."""
        return cls(Reranker.load(path, **arguments), name, arguments.get("revision") or "local")

    def index(self, corpus: Any, **_: Any) -> None:
        """Keep the corpus, whose rows have `id`, `text` and perhaps `title`."""
        self._corpus = {row["id"]: row for row in corpus}

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Mapping[str, Sequence[str]] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """Rank the candidates of every query.

        Args:
            queries: rows with `id`, `text` and perhaps `instruction`.
            top_k: number of best documents to return.
            top_ranked: qid -> docids of its candidates, in first-stage order.

        Returns:
            qid -> docid -> score.

        Raises:
            ValueError: if the task brings no candidates.
        """
        if top_ranked is None:
            raise ValueError(
                "the task brings no candidates to rank; take a reranking task, or make one of its earlier results with "
                "task.convert_to_reranking(...)"
            )
        rows = [row for row in queries if top_ranked.get(row["id"])]
        by_instruction: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_instruction.setdefault(row.get("instruction") or "", []).append(row)
        found: dict[str, dict[str, float]] = {}
        for instruction, asked in by_instruction.items():
            for start in range(0, len(asked), QUERIES_AT_ONCE):
                found |= self._rank(asked[start : start + QUERIES_AT_ONCE], instruction, top_ranked, top_k)
        return found

    def _rank(
        self, rows: Sequence[Mapping[str, Any]], instruction: str, candidates: Mapping[str, Sequence[str]], top_k: int
    ) -> dict[str, dict[str, float]]:
        requests = [(row["text"], [self._document(docid) for docid in candidates[row["id"]]]) for row in rows]
        rankings = self.reranker.rank_many(requests, top_n=top_k, instruction=instruction)
        return {
            row["id"]: {candidates[row["id"]][index]: score for index, score in ranking}
            for row, ranking in zip(rows, rankings, strict=True)
        }

    def _document(self, docid: str) -> dict[str, str]:
        row = self._corpus[docid]
        return {"title": row.get("title") or "", "text": row.get("text") or ""}
