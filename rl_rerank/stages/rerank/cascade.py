"""Multi-stage ranking: the top of an earlier stage's order is ranked again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rl_rerank.config import Config
from rl_rerank.evaluation.cost import Cost, read_cost
from rl_rerank.paradigms.ordering import model_scores
from rl_rerank.stages.rerank.fused import rankings
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.types import Ranking, RankingExample


def earlier(config: Config, name: str, stage: RerankStage) -> dict[str, Ranking]:
    """Read the rankings that the stage continues: qid -> ranking; empty if it ranks the first stage's candidates."""
    return rankings(config, stage.candidates, f"{name}.candidates") if stage.candidates else {}


def shortened(
    examples: Sequence[RankingExample], before: Mapping[str, Ranking], depth: int | None
) -> Sequence[RankingExample]:
    """Replace the candidates by the first `depth` of the earlier ranking, with their ranks and scores in it.

    Args:
        before: qid -> the earlier ranking; empty: the examples stay as they are.
    """
    if not before:
        return examples
    found: list[RankingExample] = []
    for example in examples:
        ranking = before[example.qid]
        scores = model_scores(example, ranking)
        candidates = tuple(
            dataclasses.replace(example.candidate(docid), rank=rank, score=scores[docid])
            for rank, docid in enumerate(ranking.docids[:depth], start=1)
        )
        found.append(dataclasses.replace(example, candidates=candidates))
    return found


def completed(rankings: Sequence[Ranking], before: Mapping[str, Ranking]) -> list[Ranking]:
    """Put the documents of earlier rankings that were not ranked again below the others, in their earlier order.

    Scores become n, ..., 1, because those of two models are not on one scale; the raw scores are gone then.
    """
    return [_completed(ranking, before[ranking.qid]) for ranking in rankings]


def _completed(ranking: Ranking, before: Ranking) -> Ranking:
    rest = [docid for docid in before.docids if docid not in ranking.scores]
    if not rest:
        return ranking
    docids = (*ranking.docids, *rest)
    scores = {docid: float(len(docids) - place) for place, docid in enumerate(docids)}
    return dataclasses.replace(ranking, docids=docids, scores=scores, raw_scores=None)


def cost_behind(config: Config, stage: RerankStage, own: Cost) -> Cost:
    """Add the cost of the earlier ranking, whose rounds come first."""
    first = read_cost(Path(config.run_dir) / stage.candidates / "summary.json")
    return dataclasses.replace(first + own, rounds=first.rounds + own.rounds)
