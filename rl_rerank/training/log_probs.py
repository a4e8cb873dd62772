"""The two ways to the log-probabilities of completions, and which of them is taken.

The plain way is trl's: a row for each completion. The shared way computes each prompt once for its group. On the first
batch both are compared; where they differ the plain one is taken from then on.
"""

# Shape legend: B completions, C completion tokens, L tokens of prompt and completion.

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rl_rerank.training import prefix

logger = logging.getLogger(__name__)

GAP_FLOAT32, GAP_REDUCED = 1e-3, 5e-2
"""How far apart the two ways may be on the first batch, in nats a token on average."""


class LogProbs:
    """Log-probabilities and entropies of completions, [B, C] each.

    Attributes:
        refusal: why prompts are not shared; None where they are.
    """

    def __init__(
        self,
        plain: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]],
        accelerator: Accelerator,
        *,
        num_generations: int,
        temperature: float,
        refusal: str | None,
    ) -> None:
        """
        Args:
            plain: trl's `_get_per_token_logps_and_entropies`.
        """
        self.trl = plain
        self.accelerator = accelerator
        self.num_generations = num_generations
        self.temperature = temperature
        self.refusal = refusal
        self._is_verified = False

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        batch_size: int | None = None,
        with_entropy: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """By the way that is taken.

        Args:
            input_ids: [B, L], prompts padded on the left and completions on the right.
            length: C, the columns of completions.
            batch_size: rows of a forward; None: all.
        """
        if self.refusal is None and not self._is_verified:
            self._verify(model, input_ids, attention_mask, length)
        way = self.shared if self.refusal is None else self.plain
        return way(model, input_ids, attention_mask, length, batch_size, with_entropy)

    def plain(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        batch_size: int | None = None,
        with_entropy: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """trl's own forward, a row for each completion."""
        return self.trl(model, input_ids, attention_mask, length, batch_size, with_entropy)[:2]

    def shared(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        batch_size: int | None = None,
        with_entropy: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The same with each prompt computed once for its group."""
        split = input_ids.size(1) - length
        rows = batch_size or input_ids.size(0)
        log_probs, entropies = [], []
        for ids, mask in zip(input_ids.split(rows), attention_mask.split(rows), strict=True):
            with self.accelerator.autocast():
                log_prob, entropy = prefix.shared_log_probs(
                    model,
                    ids[:, :split],
                    mask[:, :split],
                    ids[:, split:],
                    mask[:, split:],
                    num_generations=self.num_generations,
                    temperature=self.temperature,
                    with_entropy=with_entropy,
                )
            log_probs.append(log_prob)
            entropies.append(entropy)
        return torch.cat(log_probs), torch.cat(entropies) if with_entropy else None

    def _verify(self, model: Any, input_ids: Tensor, attention_mask: Tensor, length: int) -> None:
        """Compare both ways on the first group of every process; where they differ, take the plain one from now on."""
        self._is_verified = True
        group = slice(0, self.num_generations)
        asked = (model, input_ids[group], attention_mask[group], length)
        was_training = model.training
        model.eval()
        with torch.no_grad():
            apart = (self.plain(*asked)[0] - self.shared(*asked)[0]).abs()
        model.train(was_training)
        mask = attention_mask[group, -length:]
        mean = (apart * mask).sum() / mask.sum().clamp(min=1)
        gap = self.accelerator.gather(mean.reshape(1)).max().item()
        is_exact = self.accelerator.mixed_precision == "no" and next(model.parameters()).dtype == torch.float32
        allowed = GAP_FLOAT32 if is_exact else GAP_REDUCED
        if gap <= allowed:
            logger.info("a prompt computed once for its group gives the same log-probabilities (%.1e nats apart)", gap)
        else:
            self.refusal = (
                f"on the first batch the log-probabilities were {gap:.2g} nats apart from those of separate rows, more "
                f"than {allowed}"
            )
            logger.warning("prompts are computed once a completion, not once a group: %s", self.refusal)
