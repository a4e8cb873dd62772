"""What the settings of a grpo stage mean for a policy that samples no text, and which of them mean nothing."""

from __future__ import annotations

from typing import Any

from rl_rerank.config.building import one_of
from rl_rerank.config.losses import RANKING_LOSSES, check_loss

POLICIES = ("tokens", "scores", "choice")
ESTIMATORS = ("group", "pl_rank", "moves")
OF_TOKENS = (
    "num_iterations",
    "algorithm",
    "epsilon",
    "epsilon_high",
    "rollout",
    "rollout_args",
    "rollout_server",
    "rollout_correction",
    "max_logprob_gap",
    "shared_prefix",
    "attention",
    "micro_batch_tokens",
    "refill_rounds",
    "refill_min_std",
    "curriculum",
)
OF_SCORES = ("list_size", "estimator", "top_k", "loss", "loss_params", "loss_weight")


def check_policy(stage: Any, defaults: Any) -> None:
    """Refuse settings of a grpo stage that its policy has no use for.

    Args:
        stage: the stage.
        defaults: maps the names of its fields to their defaults.

    Raises:
        ValueError: with the setting and the reason.
    """
    one_of("grpo stage: policy", stage.policy, POLICIES)
    unused = () if stage.policy == "tokens" else OF_TOKENS
    unused += () if stage.policy == "scores" else OF_SCORES
    unused += ("entropy",) if stage.policy == "tokens" else ()
    unused += ("num_generations",) if stage.policy == "choice" else ("held",)
    for name in unused:
        if getattr(stage, name) != defaults[name]:
            raise ValueError(
                f"grpo stage: {name}={getattr(stage, name)} means nothing to policy={stage.policy}; leave it out"
            )
    if stage.policy != "tokens" and stage.scale_rewards == "batch":
        raise ValueError(f"grpo stage: scale_rewards must be group or none with policy={stage.policy}; got batch")
    if stage.entropy < 0 or stage.beta < 0:
        raise ValueError(f"grpo stage: beta and entropy must be 0 or more; got {stage.beta} and {stage.entropy}")
    _check_scores(stage)


def _check_scores(stage: Any) -> None:
    one_of("grpo stage: estimator", stage.estimator, ESTIMATORS)
    if stage.list_size is not None and stage.list_size < 2:
        raise ValueError(f"grpo stage: list_size must be at least 2, or null for all; got {stage.list_size}")
    if stage.top_k is not None and stage.top_k < 1:
        raise ValueError(f"grpo stage: top_k must be at least 1, or null for all places; got {stage.top_k}")
    if stage.estimator != "group" and (stage.permute_rewards or stage.scale_rewards == "group"):
        raise ValueError(
            f"grpo stage: estimator={stage.estimator} takes the rewards of places and has no groups of rewards; leave "
            "out permute_rewards and scale_rewards"
        )
    if stage.loss is None:
        if stage.loss_params or stage.loss_weight != 1.0:
            raise ValueError("grpo stage: loss_params and loss_weight need a loss")
        return
    check_loss("grpo stage", stage.loss, stage.loss_params, RANKING_LOSSES)
    if stage.loss_weight <= 0:
        raise ValueError(f"grpo stage: loss_weight must be above 0; got {stage.loss_weight}")
