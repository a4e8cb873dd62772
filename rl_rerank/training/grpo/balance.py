"""Dealing a batch's groups to the processes by their cost, so that none waits long for the slowest.

Lengths of completions differ by multiples, and with two groups a process the slowest one computes a third longer than
the mean. An optimizer step sums over its completions, so any process may compute any group: only the rounding of sums
changes. Every process has as many groups as before.
"""

# Shape legend: B rows of a process, G completions of a group.

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cost:
    """A model of the arithmetic of a group's forward and backward: tokens, and `pair` for each pair in attention."""

    pair: float
    """Arithmetic of a pair of a token and one that it attends to, over that of a token outside of attention."""

    @staticmethod
    def of(model: Any) -> Cost:
        """Compare 2 operations a weight with the 4 x heads x size of a head x layers of a pair."""
        config = model.config.get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        weights = sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters())  # ds: ZeRO-3's
        return Cost(4 * config.num_hidden_layers * config.num_attention_heads * size / (2 * weights))

    def __call__(self, prompt: int, completions: Sequence[int]) -> float:
        """Compute the cost of a prompt that is computed once, with completions of these lengths.

        A prompt of P tokens has P (P + 1) / 2 pairs, and a completion of C behind it C P + C (C + 1) / 2. Without any
        completion there is nothing to learn, and the group costs nothing.
        """
        if not any(completions):
            return 0.0
        tokens = prompt + sum(completions)
        pairs = prompt * (prompt + 1) / 2 + sum(c * prompt + c * (c + 1) / 2 for c in completions)
        return tokens + self.pair * pairs


def deal(costs: Sequence[float], processes: int) -> list[list[int]]:
    """Deal groups to processes, equally many to each: the largest first, to the process with the least so far.

    This is LPT (Graham 1969, https://doi.org/10.1137/0117039) with a bound on the number. Every process computes the
    same.

    Args:
        costs: of the groups, a multiple of `processes`.

    Returns:
        The numbers of each process's groups, in ascending order.
    """
    share = len(costs) // processes
    assert share * processes == len(costs)
    found: list[list[int]] = [[] for _ in range(processes)]
    loads = [(0.0, process) for process in range(processes)]
    for group in sorted(range(len(costs)), key=lambda g: (-costs[g], g)):
        load, process = heapq.heappop(loads)
        found[process].append(group)
        if len(found[process]) < share:
            heapq.heappush(loads, (load + costs[group], process))
    return [sorted(groups) for groups in found]


def dealt(trainer: Any, batch: dict[str, Any], updates: int) -> dict[str, Any]:
    """Exchange groups between processes; every optimizer step keeps the groups that it has.

    Completions that the loss skips cost nothing.

    Args:
        trainer: a RankingGRPOTrainer.
        batch: a process's rows, in `updates` equal parts, one a step. Prompts are padded on the left.

    Returns:
        As many rows, columns padded to the longest of all processes.
    """
    accelerator, size = trainer.accelerator, trainer.num_generations
    if accelerator.num_processes == 1:
        return batch
    lengths = batch["completion_mask"].sum(1)  # [B]
    if trainer._can_skip:
        lengths = lengths * (batch["advantages"] != 0)
    here = torch.cat([batch["prompt_mask"].sum(1)[::size, None], lengths.view(-1, size)], dim=1)  # [B / G, 1 + G]
    cost = Cost.of(accelerator.unwrap_model(trainer.model))
    costs = [cost(prompt, completions) for prompt, *completions in accelerator.gather(here).tolist()]
    mine = []
    for step in _steps(len(costs), accelerator.num_processes, updates):
        mine += [
            step[number]
            for number in deal([costs[g] for g in step], accelerator.num_processes)[accelerator.process_index]
        ]
    device = accelerator.device
    rows = (torch.tensor(mine, device=device)[:, None] * size + torch.arange(size, device=device)).flatten()
    count = len(batch["completion_mask"])
    return {
        name: _everywhere(trainer, name, value)[rows] if _is_of_rows(value, count) else value
        for name, value in batch.items()
    }


def _steps(groups: int, processes: int, updates: int) -> list[list[int]]:
    """The groups of each optimizer step, which are a part of every process's."""
    share = groups // processes
    part = share // updates
    return [
        [process * share + update * part + number for process in range(processes) for number in range(part)]
        for update in range(updates)
    ]


def _is_of_rows(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == count


def _everywhere(trainer: Any, name: str, value: Tensor) -> Tensor:
    """The rows of all processes, padded to the longest: prompts on the left, completions on the right."""
    accelerator = trainer.accelerator
    pad = trainer._tokenizer.pad_token_id if name.endswith("_ids") else 0
    if value.dim() > 1:
        value = accelerator.pad_across_processes(value, dim=1, pad_index=pad, pad_first=name.startswith("prompt"))
    return accelerator.gather(value)
