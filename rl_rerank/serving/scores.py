"""Scores of an exported model, which are the same at export, in production and in a later check."""

from __future__ import annotations

from collections.abc import Sequence

from rl_rerank.config import LongDocumentsConfig
from rl_rerank.engines.base import Engine
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.ordering import model_scores
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking import long_documents
from rl_rerank.ranking.driver import ADVICE, num_lost, rerank
from rl_rerank.ranking.methods import of_documents
from rl_rerank.serving.contract import GoldenPrompt, GoldenScores, golden_example
from rl_rerank.types import Ranking, RankingExample, Rollout


def scores(
    examples: Sequence[RankingExample], paradigm: Paradigm, engine: Engine, how: LongDocumentsConfig
) -> tuple[list[dict[str, float]], list[Rollout]]:
    """Score the candidates of every example, with long documents cut or split.

    Returns:
        docid -> score of each example, best first, as `model_scores` says; and every prompt with its answer.
    """
    rankings, rollouts = rank(examples, paradigm, engine, how)
    return [model_scores(*pair) for pair in zip(examples, rankings, strict=True)], rollouts


def rank(
    examples: Sequence[RankingExample], paradigm: Paradigm, engine: Engine, how: LongDocumentsConfig
) -> tuple[list[Ranking], list[Rollout]]:
    """Rank the candidates of every example, with long documents cut or split."""
    views = [long_documents.view(example, how) for example in examples]
    rankings, rollouts = rerank([view.example for view in views], paradigm, engine)
    whole = zip(examples, views, rankings, strict=True)
    return [of_documents(example, view, ranking, paradigm, how) for example, view, ranking in whole], rollouts


def golden(
    paradigm: Paradigm,
    engine: Engine,
    renderer: Renderer,
    how: LongDocumentsConfig,
    query: str,
    documents: Sequence[str],
) -> GoldenScores:
    """Score a golden entry.

    Raises:
        ValueError: if any answer's log-probabilities are not finite: these texts are plain.
    """
    example = golden_example(query, tuple(documents))
    [found], rollouts = scores([example], paradigm, engine, how)
    if lost := num_lost(rollouts):
        raise ValueError(
            f"the golden query {query!r}: log-probabilities of {lost} of {len(rollouts)} answers are not finite; "
            f"{ADVICE}"
        )
    shown = prompts(paradigm, renderer, how, query, documents)
    for prompt, rollout in zip(shown, rollouts, strict=False):  # rollouts of later rounds follow
        prompt.continuations = dict(rollout.completion.continuations or {})
    own = [found[str(i)] for i in range(len(documents))]
    return GoldenScores(query=query, documents=list(documents), scores=own, prompts=shown)


def prompts(
    paradigm: Paradigm, renderer: Renderer, how: LongDocumentsConfig, query: str, documents: Sequence[str]
) -> list[GoldenPrompt]:
    """Render the first round of prompts about a golden entry."""
    shown = long_documents.view(golden_example(query, tuple(documents)), how).example
    rendered = map(renderer, next(paradigm.strategy(shown)))
    return [GoldenPrompt(text=each.text, token_ids=list(each.token_ids)) for each in rendered]
