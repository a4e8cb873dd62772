"""data.first_stage=hybrid: BM25 and embeddings, fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rl_rerank.config import at_least
from rl_rerank.data import bm25
from rl_rerank.paradigms.ordering import rank_by_order
from rl_rerank.ranking import fusion
from rl_rerank.retrieval.dense import Dense
from rl_rerank.types import Ranking

if TYPE_CHECKING:
    from rl_rerank.data.records import Document, Query


@dataclass(kw_only=True)
class Hybrid(Dense):
    """Each finds `pool` documents, and the best `depth` of both together are the candidates."""

    kind: str = "hybrid"
    method: Literal["minmax", "zscore", "rrf"] = "rrf"
    """How scores are made comparable: rl_rerank/ranking/fusion.py."""
    weight: float = 0.5
    """Weight of BM25; the encoder's is 1 - weight."""
    pool: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("data.first_stage", self, pool=1)
        if not 0 <= self.weight <= 1:
            raise ValueError(f"data.first_stage.weight must be from 0 to 1; got {self.weight}")

    def retrieve(
        self,
        documents: Mapping[str, Document],
        queries: Sequence[Query],
        *,
        depth: int,
        excluded: Mapping[str, Set[str]],
        language: str,
        cache: Path,
    ) -> Mapping[str, Sequence[tuple[str, float | None]]]:
        pool = max(self.pool, depth)
        by_words = bm25.retrieve(documents, queries, depth=pool, excluded=excluded, language=language)
        found_by_meaning = super().retrieve(
            documents, queries, depth=pool, excluded=excluded, language=language, cache=cache
        )
        return {q.qid: self._fused(q.qid, by_words[q.qid], found_by_meaning.get(q.qid, ()))[:depth] for q in queries}

    def _fused(
        self, qid: str, first: Sequence[tuple[str, float | None]], second: Sequence[tuple[str, float | None]]
    ) -> list[tuple[str, float | None]]:
        fused = fusion.fuse(_ranking(qid, first), _ranking(qid, second), self.method, self.weight)
        scores = fused.raw_scores or {}
        return [(docid, scores[docid]) for docid in fused.docids]


def _ranking(qid: str, found: Sequence[tuple[str, float | None]]) -> Ranking:
    scores = {docid: score for docid, score in found if score is not None}
    return replace(rank_by_order(qid, list(scores)), raw_scores=scores)
