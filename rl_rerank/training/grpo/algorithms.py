"""Variants of group-relative policy optimisation as arguments of trl.

Variants of the KL, of the schedule and of the number of updates are settings of their own.

Notation: G completions o_i of a prompt with rewards R_i; A_i their advantages; r the ratio of the policy's probability
of a token to that of the policy that sampled; clip(r) = min(max(r, 1 - epsilon), 1 + epsilon_high); T_i tokens of o_i,
T of all completions of a step, and L the maximum of one. All maximise, over the prompts of a step,

    sum over i and t of w_i min(r A_i, clip(r) A_i)

with A_i = (R_i - mean of the group) / (its standard deviation), unless said otherwise:

    grpo     w_i = 1 / (G T_i), a mean over completions. DeepSeekMath, https://arxiv.org/abs/2402.03300.
    dr_grpo  w_i = 1 / (G L): no preference for short right answers or long wrong ones; A_i is not divided by the
             standard deviation. https://arxiv.org/abs/2503.20783.
    dapo     w_i = 1 / T, a mean over tokens; epsilon_high = .28 leaves room for unlikely tokens. Its shaping of
             overlong answers is a reward; groups are not filled up. https://arxiv.org/abs/2503.14476.
    gspo     r is one ratio for the sequence, exp of the mean log ratio of its tokens; w_i = 1 / G; epsilon = 3e-4 and
             epsilon_high = 4e-4. https://arxiv.org/abs/2507.18071.
    cispo    -min(r, epsilon_high) A_i log p, the ratio without a gradient, w_i = 1 / T; epsilon_high = 5.
             https://arxiv.org/abs/2506.13585, with the bound of https://arxiv.org/abs/2510.13786.
    gdpo     dapo's loss without its clip; every reward is normalised in its group by itself, their weighted sum in the
             batch: rewards of different ranges count alike. https://arxiv.org/abs/2601.05242.
    rloo     grpo's loss, with the mean of the others as the baseline and no division:
             A_i = R_i - mean of R_j, j != i = G / (G - 1) (R_i - mean). https://arxiv.org/abs/2402.14740.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_rerank.stages.grpo.policies import TokensPolicy


ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"loss_type": "grpo", "scale_rewards": "group"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "scale_rewards": "group", "epsilon_high": 0.28},
    "gspo": {
        "loss_type": "grpo",
        "scale_rewards": "group",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },
    "cispo": {"loss_type": "cispo", "scale_rewards": "group", "epsilon_high": 5.0},
    "gdpo": {
        "loss_type": "dapo",
        "scale_rewards": "group",
        "multi_objective_aggregation": "normalize_then_sum",
    },
    "rloo": {"loss_type": "grpo", "scale_rewards": "none"},
}
"""Name of an algorithm -> arguments of trl.GRPOConfig."""


def arguments(policy: TokensPolicy, scale_rewards: str | None) -> dict[str, Any]:
    """Combine the arguments of the policy's algorithm with the settings that override them.

    Args:
        scale_rewards: the stage's setting; None keeps the algorithm's.
    """
    own = {"scale_rewards": scale_rewards, "epsilon": policy.epsilon, "epsilon_high": policy.epsilon_high}
    return {**ARGUMENTS[policy.algorithm], **{name: value for name, value in own.items() if value is not None}}


def leaves_one_out(policy: TokensPolicy) -> bool:
    """Whether a completion's baseline is the mean reward of the others."""
    return policy.algorithm == "rloo"
