"""Reward shaping before, and advantage shaping after, trl's advantage computation."""

# Shape legend: B completions, G completions of a group; the rows of a group are adjacent.

import random
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def shaped(trainer: Any, found: Tensor, rewards: Iterable[float]) -> Tensor:
    """Apply the configured baseline to advantages [B], without rounding errors where rewards have no variance.

    Args:
        trainer: a RankingGRPOTrainer.
        rewards: of the completions, weighted sums.
    """
    if trainer.leave_one_out:
        found = leave_one_out(found, trainer.num_generations)
    if trainer.multi_objective_aggregation == "normalize_then_sum":
        return found
    return without_rounding(found, torch.tensor(list(rewards)), trainer.num_generations)


def permuted(rewards: Tensor, num_generations: int, seed: str) -> Tensor:
    """Shuffle rewards [B, terms] within each group, identically on every process."""
    rng = random.Random(seed)
    order: list[int] = []
    for start in range(0, rewards.size(0), num_generations):
        group = list(range(start, start + num_generations))
        rng.shuffle(group)
        order += group
    return rewards[torch.tensor(order, device=rewards.device)]


def leave_one_out(advantages: Tensor, num_generations: int) -> Tensor:
    """Convert group-mean advantages to advantages over the mean of the other completions, without normalising.

    R_i - mean of R_j, j != i, is G / (G - 1) (R_i - mean). RLOO, https://arxiv.org/abs/2402.14740.
    """
    return advantages * num_generations / (num_generations - 1)


def without_rounding(advantages: Tensor, rewards: Tensor, num_generations: int) -> Tensor:
    """Set advantages [B] to exactly 0 for groups with zero reward variance.

    There, trl divides the rounding error of a mean by a standard deviation of about 0, which gives noise.

    Args:
        rewards: [B], weighted sums.
    """
    groups = rewards.view(-1, num_generations)
    differ = (groups.amax(1) > groups.amin(1)).repeat_interleave(num_generations)
    return advantages * differ.to(advantages.device)


def variance_within(rewards: Tensor, num_generations: int) -> float:
    """Compute the share of the reward variance within groups, in [0, 1]; only this part gives advantages.

    The rest is variance between prompts, without a learning signal. 0 if all rewards are equal. Law of total variance:
    Var(R) = E[Var(R | prompt)] + Var(E[R | prompt]).

    Args:
        rewards: [B], weighted sums.
    """
    groups = rewards.double().view(-1, num_generations)
    total = groups.var(correction=0)
    return (groups.var(dim=1, correction=0).mean() / total).item() if total > 0 else 0.0
