"""A document compressor of LangChain: `pip install langchain-core`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from rl_rerank.serving.ranks import document, ranked


class RerankerCompressor(BaseDocumentCompressor):
    """Orders retrieved documents and keeps the best.

    RerankerCompressor(ranker=Reranker.load(folder), top_n=3).compress_documents(documents, query)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    ranker: Any
    """A `Reranker` or a `Client`."""
    top_n: int | None = None
    instruction: str = ""
    """The definition of relevance, where the query does not give it."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the best documents with their scores as `relevance_score` in the metadata."""
        shown = [document(each.page_content, each.metadata) for each in documents]
        return [
            documents[index].model_copy(update={"metadata": {**documents[index].metadata, "relevance_score": score}})
            for index, score in ranked(self.ranker, query, shown, self.top_n, self.instruction)
        ]
