"""The interface that a model in this process and one behind a server share, for other frameworks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rl_rerank.serving.reranker import Document


class Ranks(Protocol):
    """`Reranker` in this process, or `Client` of a server."""

    def rank(
        self, query: str, documents: Sequence[Document], top_n: int | None = None, instruction: str = ""
    ) -> list[tuple[int, float]]:
        """Order `documents` for `query`: (index, score) best first."""
        ...


def document(text: str | None, metadata: Mapping[str, Any]) -> Document:
    """A document of another framework, whose title stands in its metadata, if anywhere."""
    title = metadata.get("title")
    return {"text": text or "", "title": title if isinstance(title, str) else ""}


def ranked(
    ranker: Ranks, query: str, documents: Sequence[Document], top_n: int | None, instruction: str
) -> list[tuple[int, float]]:
    """Order `documents` for `query`; none of them is no error here, because a retriever may find nothing."""
    return ranker.rank(query, documents, top_n=top_n, instruction=instruction) if documents else []
