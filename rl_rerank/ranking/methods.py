"""The methods of a rerank stage: views of long documents, repetitions, fusion with the first stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.engines.base import Engine
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.paradigms.ordering import imputed
from rl_rerank.ranking import fusion, long_documents
from rl_rerank.ranking.driver import rerank, shuffled
from rl_rerank.ranking.long_documents import View
from rl_rerank.types import Ranking, RankingExample, Rollout

if TYPE_CHECKING:
    from rl_rerank.stages.rerank.spec import RerankStage


def rank(
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    engine: Engine,
    stage: RerankStage,
    progress: str | None = None,
) -> tuple[list[Ranking], list[Rollout]]:
    """Rank the candidates of every example by the stage's settings.

    Returns:
        Rankings in the order of the examples, and every prompt with its completion. A ranking has raw scores for all
        documents or for none.

    Raises:
        ValueError: before the first call, if the paradigm or the engine does not support the settings.
    """
    check(paradigm, stage.long_documents)
    whole = [long_documents.view(example, stage.long_documents) for example in examples]
    views = [_shown(view, stage, repeat) for repeat in range(stage.shuffles) for view in whole]
    found, rollouts = rerank(
        [view.example for view in views],
        paradigm,
        engine,
        retries=stage.retries,
        retry_seed=stage.seed,
        progress=progress,
    )
    rankings: list[Ranking] = []
    for place, example in enumerate(examples):
        repeats = slice(place, None, len(examples))
        mine = [
            of_documents(example, view, ranking, paradigm, stage.long_documents)
            for view, ranking in zip(views[repeats], found[repeats], strict=True)
        ]
        rankings.append(_one(example, views[place], mine, stage))
    return rankings, rollouts


def of_documents(
    example: RankingExample, view: View, ranking: Ranking, paradigm: Paradigm, how: LongDocumentsConfig
) -> Ranking:
    """Convert the ranking of a view to one of the example's documents."""
    if not view.owners:
        return ranking
    return long_documents.aggregate(example, view, ranking, mode=how.mode, scale=traits(paradigm).score_scale)


def check(paradigm: Paradigm, how: LongDocumentsConfig, place: str = "rerank stage: ") -> None:
    """Refuse a long-document mode that needs scores from a paradigm without scores.

    Args:
        place: text before the setting's name in the error.
    """
    if how.splits and not traits(paradigm).score_scale:
        raise ValueError(
            f"{place}long_documents.mode={how.mode} makes a document's score from those of its passages, and the "
            f"paradigm {paradigm.name!r} gives no scores that stand for themselves; choose firstp or quite, or a "
            "paradigm such as pointwise or groupwise"
        )


def check_training(paradigm: Paradigm, how: LongDocumentsConfig, place: str, *, reads_scores: bool) -> None:
    """Refuse a long-document mode in which a training stage has no scores of passages.

    Args:
        place: text before the setting's name in the error.
        reads_scores: whether the stage's loss reads the scores of a list's documents.
    """
    if not how.splits:
        return
    place = f"{place}long_documents.mode={how.mode}"
    if not reads_scores:
        raise ValueError(
            f"{place} makes a document's score from those of its passages, and this stage trains answers, which are no "
            "scores; choose firstp or quite, or train scores by a ranking loss or policy=scores"
        )
    if traits(paradigm).list_scores != "documents":
        raise ValueError(
            f"{place} asks about every passage alone, and the paradigm {paradigm.name!r} shows several documents in "
            "one prompt; choose firstp or quite, or a paradigm such as pointwise"
        )


def _shown(view: View, stage: RerankStage, repeat: int) -> View:
    if stage.shuffle:
        return view._replace(example=shuffled(view.example, stage.seed, repeat))
    if stage.reverse:
        return view._replace(example=replace(view.example, candidates=view.example.candidates[::-1]))
    return view


def _one(example: RankingExample, view: View, repeats: Sequence[Ranking], stage: RerankStage) -> Ranking:
    """Combine the repetitions into one ranking, fused with the first stage if configured."""
    ranking = repeats[0]
    if len(repeats) > 1:
        order = dict.fromkeys(view.owners.get(docid, docid) for docid in view.example.docids)
        shown = replace(example, candidates=tuple(map(example.candidate, order)))
        ranking = fusion.average(shown, repeats)
    if ranking.raw_scores is not None:
        # The model's own, with those of documents that it did not score filled in.
        ranking = replace(ranking, raw_scores=imputed(example, ranking.raw_scores))
    if stage.fusion is None:
        return ranking
    return fusion.fuse(ranking, fusion.first_stage(example), stage.fusion.method, stage.fusion.known_weight)
