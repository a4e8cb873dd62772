"""A component of Haystack: `pip install haystack-ai`."""

from __future__ import annotations

from dataclasses import replace

from haystack import Document, component

from rl_rerank.serving.ranks import Ranks, document, ranked


@component
class RerankerRanker:
    """Orders retrieved documents and keeps the best.

    RerankerRanker(Reranker.load(folder), top_k=3).run(query=query, documents=documents)["documents"]
    """

    def __init__(self, ranker: Ranks, top_k: int | None = None, instruction: str = "") -> None:
        """
        Args:
            ranker: a `Reranker` or a `Client`.
            top_k: number of best documents to keep; None keeps all.
            instruction: definition of relevance, where the query does not give it.
        """
        self.ranker = ranker
        self.top_k = top_k
        self.instruction = instruction

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Return copies of the best documents with their scores."""
        shown = [document(each.content, each.meta) for each in documents]
        found = ranked(self.ranker, query, shown, self.top_k if top_k is None else top_k, self.instruction)
        return {"documents": [replace(documents[index], score=score) for index, score in found]}
