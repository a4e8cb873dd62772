"""The micro-batches of a step of completions: groups, whole or divided, within a token budget."""

# Shape legend: B completions, N groups (B = N*G), G completions of a group, L tokens of prompt and completion.

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rl_rerank.training.loop.micro_batches import TokenBudget, Unit


def divide(budget: TokenBudget, group: Sequence[int], prompt: int, completions: Sequence[int]) -> list[Unit]:
    """Divide a group above the budget into units within it; a completion above it is a unit by itself.

    The loss is a sum over completions, so this is exact. Every unit computes the prompt again.

    Args:
        group: its rows. prompt: the tokens of its prompt. completions: the tokens of each completion.
    """
    found: list[list[int]] = [[]]
    for place in range(len(group)):
        if found[-1] and budget.used([_unit(group, prompt, completions, [*found[-1], place])]) > budget.tokens:
            found.append([])
        found[-1].append(place)
    return [_unit(group, prompt, completions, places) for places in found]


def _unit(group: Sequence[int], prompt: int, completions: Sequence[int], places: Sequence[int]) -> Unit:
    own = [completions[place] for place in places]
    return Unit(tuple(group[place] for place in places), prompt + sum(own), len(own), prompt, max(*own, 1))


def rows(
    attention_mask: Tensor,
    length: int,
    num_generations: int,
    budget: TokenBudget,
    accelerator: Accelerator,
    teaches: Tensor | None = None,
) -> list[Tensor]:
    """Assign this process's rows to micro-batches; every process has equally many.

    Args:
        attention_mask: [B, L], of prompts and completions; the rows of a group are adjacent.
        length: number of completion columns.
        teaches: [N] of bool, False for groups to skip; None computes all.

    Returns:
        Row numbers of each micro-batch.
    """
    prompts = attention_mask[::num_generations, :-length].sum(1).tolist()
    completions = attention_mask[:, -length:].sum(1).view(-1, num_generations).tolist()  # [N, G]
    computed: list[Unit] = []
    idle: list[Unit] = []
    for number, (prompt, own) in enumerate(zip(prompts, completions, strict=True)):
        group = range(number * num_generations, (number + 1) * num_generations)
        if teaches is None or bool(teaches[number]):
            computed += divide(budget, group, prompt, own)
        else:
            idle.append(_unit(group, prompt, own, range(num_generations)))
    found = budget.divided(computed, accelerator, idle)
    return [torch.tensor(part, device=attention_mask.device) for part in found]


def check_means(trainer: Any) -> None:
    """Refuse terms of a loss that are means over a micro-batch, where these differ in size.

    Raises:
        ValueError: if our trl.GRPOTrainer has such a term.
    """
    if trainer._entropy_bonus_enabled or trainer.aux_loss_enabled:
        raise ValueError(
            "micro_batch_tokens makes micro-batches of different sizes, and an entropy bonus or an auxiliary loss "
            "is a mean over one; set micro_batch instead, or leave out trl.entropy_coef"
        )
