"""Skipping completions without a learning signal: without an advantage and KL their loss is exactly 0."""

# Shape legend: B completions, N groups, C completion tokens, L tokens of prompt and completion.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rl_rerank.training.grpo.log_probs import Found

Forward = Callable[[Tensor, Tensor, int], Found]
"""(token ids [B, L], mask [B, L], C) -> log-probabilities and entropies [B, C]."""


def has_signal(advantages: Tensor, num_generations: int) -> Tensor:
    """Mark the groups with nonzero advantages: [N] of bool, from [B]."""
    return (advantages.view(-1, num_generations) != 0).any(1)


@dataclass(frozen=True)
class Skipping:
    """Skips the forward for rows without a learning signal and fills in finite log-probabilities, which their zero
    advantage cancels."""

    has_signal: Tensor
    """[B] of bool."""
    completion_mask: Tensor
    """[B, C]."""
    old: Tensor | None
    """[B, C] log-probabilities under the sampling policy, if known."""

    @staticmethod
    def of(inputs: Mapping[str, Tensor]) -> Skipping | None:
        """Build it for a micro-batch of trl's trainer; None if every row has a signal."""
        rows = inputs["advantages"] != 0
        if bool(rows.all()):
            return None
        return Skipping(rows, inputs["completion_mask"], inputs.get("old_per_token_logps"))

    def __call__(self, forward: Forward, input_ids: Tensor, attention_mask: Tensor, length: int) -> Found:
        """Compute the outputs of `forward` for the rows with a signal.

        Without any such row it still runs once, on a one-token prompt and completion, because every process must run
        equally many forwards.
        """
        rows, kept = self.has_signal, length
        if not bool(rows.any()):
            rows, kept = torch.zeros(1, dtype=torch.long, device=input_ids.device), 1
            split = input_ids.size(1) - length
            input_ids, attention_mask = input_ids[:, split - 1 : split + 1], attention_mask[:, split - 1 : split + 1]
        found = forward(input_ids[rows], attention_mask[rows], kept)
        return Found(*self._filled(found.log_probs, found.entropies, length), found.aux_loss)

    def _filled(self, found: Tensor, entropies: Tensor | None, length: int) -> tuple[Tensor, Tensor | None]:
        """Expand both to [B, C]; `found` has the rows with a signal, or one token of rows without.

        Entropies are only logged: skipped rows get the mean of the others.
        """
        rest = found.new_zeros(len(self.has_signal), length) if self.old is None else self.old.clone()
        if not bool(self.has_signal.any()):
            return rest + 0.0 * found.sum(), None if entropies is None else torch.zeros_like(rest)
        rest[self.has_signal] = found
        if entropies is None:
            return rest, None
        mask = self.completion_mask[self.has_signal]
        every = torch.full_like(rest, ((entropies * mask).sum() / mask.sum().clamp(min=1)).item())
        every[self.has_signal] = entropies
        return rest, every
