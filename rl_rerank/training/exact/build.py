"""From a grpo stage whose policy samples no text to what it trains."""

from __future__ import annotations

from collections.abc import Sequence

from rl_rerank.config import GRPOStage
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term
from rl_rerank.training.exact.enumerated import ChoiceObjective, ChoiceSettings
from rl_rerank.training.exact.lists import lists, reading
from rl_rerank.training.exact.scores import ScoreSettings, ScoresObjective
from rl_rerank.training.exact.trainer import Objective
from rl_rerank.training.loop.training_prompts import questions
from rl_rerank.training.losses import ranking_loss
from rl_rerank.types import RankingExample


def num_tasks(stage: GRPOStage) -> int:
    """How many lists or prompts the stage is given, each once."""
    return stage.max_steps * stage.prompts_per_step


def objective(
    stage: GRPOStage,
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    terms: Sequence[Term],
) -> Objective:
    """That of a stage with policy=scores or policy=choice, over the training examples."""
    build = _scores if stage.policy == "scores" else _choice
    return build(stage, examples, paradigm, renderer, terms)


def _scores(
    stage: GRPOStage,
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    terms: Sequence[Term],
) -> Objective:
    asked = lists(examples, paradigm, renderer, count=num_tasks(stage), size=stage.list_size, seed=stage.seed)
    settings = ScoreSettings(
        num_generations=stage.num_generations,
        temperature=stage.temperature,
        estimator=stage.estimator,
        top_k=stage.top_k,
        scale=stage.scale_rewards == "group",
        beta=stage.beta,
        entropy=stage.entropy,
        loss=None if stage.loss is None else ranking_loss(stage.loss, stage.loss_params),
        loss_weight=stage.loss_weight,
        permute_rewards=stage.permute_rewards,
        seed=stage.seed,
    )
    return ScoresObjective(asked, reading(paradigm, renderer), terms, settings, pad_id=renderer.tokenizer.pad_token_id)


def _choice(
    stage: GRPOStage,
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    terms: Sequence[Term],
) -> Objective:
    asked = questions(examples, paradigm, renderer, count=num_tasks(stage), seed=stage.seed)
    settings = ChoiceSettings(
        temperature=stage.temperature,
        scale=stage.scale_rewards == "group",
        held=stage.held,
        beta=stage.beta,
        entropy=stage.entropy,
        permute_rewards=stage.permute_rewards,
        seed=stage.seed,
    )
    return ChoiceObjective(asked, paradigm, renderer, terms, settings, pad_id=renderer.tokenizer.pad_token_id)
