"""Forwards without the groups that teach nothing: a group without advantages adds exactly 0 to a loss without KL."""

# Shape legend: B completions, C completion tokens, L tokens of prompt and completion.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor | None]]
"""(token ids [B, L], mask [B, L], C) -> log-probabilities [B, C] and entropies [B, C]."""


@dataclass(frozen=True)
class Skipping:
    """Skips the forward for rows without a learning signal and fills in finite log-probabilities, which their zero
    advantage cancels."""

    teaches: Tensor
    """[B] of bool, whole groups."""
    completion_mask: Tensor
    """[B, C]."""
    old: Tensor | None
    """[B, C] log-probabilities of the policy that sampled, where they are known."""
    num_generations: int

    def __call__(
        self, forward: Forward, input_ids: Tensor, attention_mask: Tensor, length: int
    ) -> tuple[Tensor, Tensor | None]:
        """What `forward` would give, computed for the rows that teach.

        Where there are none it still runs once, on one token behind a token, because every process has to make as many
        forwards as the others.
        """
        rows, kept = self.teaches, length
        if not bool(rows.any()):
            rows, kept = torch.arange(self.num_generations, device=input_ids.device), 1
            split = input_ids.size(1) - length
            input_ids, attention_mask = input_ids[:, split - 1 : split + 1], attention_mask[:, split - 1 : split + 1]
        found, entropies = forward(input_ids[rows], attention_mask[rows], kept)
        return self._filled(found, entropies, length)

    def _filled(self, found: Tensor, entropies: Tensor | None, length: int) -> tuple[Tensor, Tensor | None]:
        """[B, C] of both, where `found` has the rows that teach, or one token of rows that do not.

        Entropies are only logged: rows that were skipped have the mean of the others.
        """
        rest = found.new_zeros(len(self.teaches), length) if self.old is None else self.old.clone()
        if not bool(self.teaches.any()):
            return rest + 0.0 * found.sum(), None if entropies is None else torch.zeros_like(rest)
        rest[self.teaches] = found
        if entropies is None:
            return rest, None
        mask = self.completion_mask[self.teaches]
        every = torch.full_like(rest, ((entropies * mask).sum() / mask.sum().clamp(min=1)).item())
        every[self.teaches] = entropies
        return rest, every
