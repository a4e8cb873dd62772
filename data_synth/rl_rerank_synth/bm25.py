"""Candidates from the whole corpus by BM25."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rl_rerank.data.bm25 import Index
from rl_rerank.data.records import Query
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import RankingExample
from rl_rerank_synth.retrieval import with_candidates


@dataclass(frozen=True)
class BM25:
    """The first `depth` documents; `data.depth` is what the data's first stage kept."""

    depth: int = 100
    add: bool = False
    """Keep the candidates that an example has, and add to them."""
    relevant: bool = True
    """Add judged relevant documents that are not found, behind those that are."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"bm25: depth must be at least 1; got {self.depth}")

    def __call__(self, examples: Iterable[RankingExample], context: StepContext) -> Iterator[RankingExample]:
        """The examples with their candidates."""
        documents = context.collection.documents
        index = context.resources.shared("bm25", lambda: Index(documents, context.config.data.language))
        batch = list(examples)
        queries = [Query(example.qid, example.query) for example in batch]
        found = index.search(queries, depth=self.depth, excluded=context.collection.excluded)
        for example in batch:
            yield with_candidates(
                example, found[example.qid], documents, context.name, add=self.add, relevant=self.relevant
            )
