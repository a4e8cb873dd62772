"""From a grpo stage whose policy samples no text to its trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from peft import get_peft_model

from rl_rerank.config import Config, GRPOStage
from rl_rerank.data import Store
from rl_rerank.engines import checkpoint
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.reward import Term
from rl_rerank.training.arguments import peft_config, policy_arguments
from rl_rerank.training.choice import ChoiceObjective, ChoiceSettings
from rl_rerank.training.lists import lists, reading
from rl_rerank.training.losses import ranking_loss
from rl_rerank.training.policy import Objective, PolicyTrainer
from rl_rerank.training.questions import questions
from rl_rerank.training.scores import ScoreSettings, ScoresObjective


def policy_trainer(
    config: Config,
    stage: GRPOStage,
    output: Path,
    start: Path,
    store: Store,
    paradigm: Paradigm,
    terms: Sequence[Term],
) -> PolicyTrainer:
    """The trainer of a stage with policy=scores or policy=choice.

    Args:
        output: the stage's folder.
        start: the folder of the model that it starts from.
    """
    build = _scores if stage.policy == "scores" else _choice
    objective, count = build(config, stage, start, store, paradigm, terms)
    model = checkpoint.load_model(start, config.model.dtype, config.model.trust_remote_code)
    reference = None
    if (adapter := peft_config(stage.lora)) is not None:
        model = get_peft_model(model, adapter)
    elif stage.beta:
        reference = checkpoint.load_model(start, config.model.dtype, config.model.trust_remote_code)
    return PolicyTrainer(
        objective=objective,
        model=model,
        reference=reference,
        args=policy_arguments(config, stage, output),
        train_dataset=Dataset.from_dict({"index": list(range(count))}),
    )


def _scores(
    config: Config, stage: GRPOStage, start: Path, store: Store, paradigm: Paradigm, terms: Sequence[Term]
) -> tuple[Objective, int]:
    renderer = checkpoint.renderer(config.model, start)
    count = stage.max_steps * stage.prompts_per_step
    asked = lists(store.examples("train"), paradigm, renderer, count=count, size=stage.list_size, seed=stage.seed)
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
    pad_id = renderer.tokenizer.pad_token_id
    return ScoresObjective(asked, reading(paradigm, renderer), terms, settings, pad_id=pad_id), count


def _choice(
    config: Config, stage: GRPOStage, start: Path, store: Store, paradigm: Paradigm, terms: Sequence[Term]
) -> tuple[Objective, int]:
    renderer = checkpoint.renderer(config.model, start)
    count = stage.max_steps * stage.prompts_per_step
    asked = questions(store.examples("train"), paradigm, renderer, count=count, seed=stage.seed)
    settings = ChoiceSettings(
        temperature=stage.temperature,
        scale=stage.scale_rewards == "group",
        beta=stage.beta,
        entropy=stage.entropy,
        permute_rewards=stage.permute_rewards,
        seed=stage.seed,
    )
    pad_id = renderer.tokenizer.pad_token_id
    return ChoiceObjective(asked, paradigm, renderer, terms, settings, pad_id=pad_id), count
