"""Build the objective of a policy that samples no text from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.reward.base import Term
from rl_rerank.training.exact.choice import ChoiceObjective, ChoiceSettings
from rl_rerank.training.exact.lists import lists, reading
from rl_rerank.training.exact.scores import ScoreSettings, ScoresObjective
from rl_rerank.training.exact.targets import require_scores
from rl_rerank.training.exact.trainer import Objective
from rl_rerank.training.loop.training_prompts import Questions
from rl_rerank.training.losses.build import build_loss
from rl_rerank.types import RankingExample

if TYPE_CHECKING:
    from rl_rerank.stages.grpo.policies import ChoicePolicy, ScoresPolicy
    from rl_rerank.stages.grpo.spec import GRPOStage


def num_tasks(stage: GRPOStage) -> int:
    """Count the lists or prompts that the stage uses, each once."""
    return stage.max_steps * stage.prompts_per_step


def scores_objective(
    stage: GRPOStage,
    policy: ScoresPolicy,
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    terms: Sequence[Term],
) -> Objective:
    """Build the objective of policy=scores over the training examples."""
    count, size = num_tasks(stage), policy.list_size
    if policy.has_teacher:
        require_scores(examples, policy, "policy.distill")
    asked = lists(
        examples,
        paradigm,
        renderer,
        count=count,
        size=size,
        seed=stage.seed,
        targets=policy,
        long_documents=stage.long_documents,
    )
    settings = ScoreSettings(
        num_generations=stage.num_generations,
        temperature=stage.temperature,
        estimator=policy.estimator,
        top_k=policy.top_k,
        scale=stage.scale_rewards == "group",
        beta=stage.beta,
        entropy=policy.entropy,
        distill=0.0 if policy.distill is None else policy.distill.weight,
        teacher_temperature=1.0 if policy.distill is None else policy.distill.temperature,
        loss=None if policy.loss is None else build_loss("policy", policy.loss, policy.loss_params),
        loss_weight=policy.loss_weight,
        curriculum=policy.curriculum,
        max_steps=stage.max_steps,
        permute_rewards=stage.permute_rewards,
        seed=stage.seed,
    )
    return ScoresObjective(asked, reading(paradigm, renderer, stage.long_documents), terms, settings)


def choice_objective(
    stage: GRPOStage,
    policy: ChoicePolicy,
    examples: Sequence[RankingExample],
    paradigm: Paradigm,
    renderer: Renderer,
    terms: Sequence[Term],
) -> Objective:
    """Build the objective of policy=choice over the training examples."""
    asked = Questions(
        examples,
        paradigm,
        renderer,
        count=num_tasks(stage),
        seed=stage.seed,
        long_documents=stage.long_documents,
    )
    settings = ChoiceSettings(
        temperature=stage.temperature,
        scale=stage.scale_rewards == "group",
        restrict_to_answers=policy.restrict_to_answers,
        beta=stage.beta,
        entropy=policy.entropy,
        permute_rewards=stage.permute_rewards,
        seed=stage.seed,
    )
    return ChoiceObjective(asked, paradigm, renderer, terms, settings)
