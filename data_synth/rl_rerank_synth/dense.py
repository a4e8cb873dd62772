"""Candidates from the whole corpus by a sentence-transformers model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_rerank.requirements import load
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.retrieval import with_candidates


@dataclass(frozen=True)
class Dense:
    """The `depth` documents whose embeddings are nearest by cosine. All embeddings are kept in memory."""

    model: str
    """A folder or a hub id."""
    depth: int = 100
    add: bool = False
    """Keep the candidates that an example has, and add to them."""
    relevant: bool = True
    """Add judged relevant documents that are not found, behind those that are."""
    batch_size: int = 32

    requires = ("sentence_transformers",)

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with their candidates.

        Raises:
            ImportError: without sentence-transformers.
        """
        documents, excluded = context.collection.documents, context.collection.excluded
        docids = list(documents)
        encoder = context.resources.shared(("encoder", self.model), lambda: _encoder(self.model))
        texts = [f"{document.title} {document.text}".strip() for document in documents.values()]
        embedded = context.resources.shared(("embedded", self.model), lambda: self._embed(encoder, texts))
        batch = list(examples)
        similar = self._embed(encoder, [example.query for example in batch]) @ embedded.T if batch else []
        for example, row in zip(batch, similar, strict=True):
            banned = excluded.get(example.qid, set())
            order = np.argsort(-row, kind="stable")[: self.depth + len(banned)]
            found = [(docids[n], float(row[n])) for n in order if docids[n] not in banned][: self.depth]
            yield with_candidates(example, found, documents, context.name, add=self.add, relevant=self.relevant)

    def _embed(self, encoder: Any, texts: list[str]) -> np.ndarray:
        return encoder.encode(texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False)


def _encoder(model: str) -> Any:
    return load("sentence_transformers", "the step dense").SentenceTransformer(model)
