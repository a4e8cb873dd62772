"""On policy, the update's own log-probabilities are the old ones.

If one optimizer step trains on a batch of completions, its weights are those that sampled them. trl then takes the
update's log-probabilities, detached, as the old ones, and every ratio is exactly 1. Where vLLM samples it computes the
old ones beforehand nevertheless, because the importance ratio to the engine needs them: a forward more, in other
micro-batches, whose rounding alone moves a sequence's ratio by more than the 3e-4 at which GSPO clips. Here the
importance ratio comes from the update's forward too.
"""

# Shape legend: B completions, C completion tokens.

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rl_rerank.training.grpo import logprob_drift
from rl_rerank.training.grpo.signal_mask import Skipping


def importance_ratio(
    trainer: Tensor, engine: Tensor, mask: Tensor, mode: str, low: float | None, high: float | None
) -> Tensor:
    """Compute the bounded ratio of the trainer's probabilities to the engine's, as trl does beforehand.

    Args:
        trainer: [B, C] log-probabilities of the sampled tokens. engine: the same; NaN where it gave none.
        mask: [B, C], 1 for completion tokens.
        mode: token or sequence, and what happens beyond the bounds, such as `token_truncate` or `sequence_mask`.

    Returns:
        [B, C], or [B, 1] in the modes of sequences.
    """
    level, beyond = mode.split("_")
    difference = torch.nan_to_num((trainer - engine) * mask, nan=0.0)
    if level == "sequence":
        difference = difference.sum(-1, keepdim=True)
    ratio = difference.exp()
    if beyond == "truncate":
        return ratio.clamp(min=low, max=high)
    is_outside = (ratio < (-math.inf if low is None else low)) | (ratio > (math.inf if high is None else high))
    return ratio.masked_fill(is_outside, 0.0)


class OnPolicyCorrection:
    """The correction of vLLM's samples by the log-probabilities of the update.

    Args:
        trainer: our trl.GRPOTrainer.
        max_gap: the threshold of `logprob_drift.require`.
    """

    def __init__(self, trainer: Any, max_gap: float) -> None:
        self.trainer = trainer
        self.max_gap = max_gap
        self._sums: Tensor | None = None

    @staticmethod
    def of(trainer: Any, max_gap: float) -> OnPolicyCorrection | None:
        """Build it where vLLM's samples are corrected and each batch of completions trains one optimizer step."""
        args = trainer.args
        is_on_policy = args.gradient_accumulation_steps % (args.steps_per_generation * trainer.num_iterations) == 0
        is_corrected = trainer.use_vllm and trainer.vllm_importance_sampling_correction
        return OnPolicyCorrection(trainer, max_gap) if is_on_policy and is_corrected else None

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Keep trl from correcting while it samples."""
        self.trainer.vllm_importance_sampling_correction = False
        try:
            yield
        finally:
            self.trainer.vllm_importance_sampling_correction = True

    def apply(self, inputs: dict[str, Any], log_probs: Tensor, skipping: Skipping | None) -> None:
        """Add a micro-batch's importance ratio to its inputs; check the drift of a step in its last micro-batch.

        Args:
            log_probs: [B, C], of the update.
            skipping: the rows without a forward, which no drift is known of.

        Raises:
            ValueError: on every process, if the mean gap of the step is above the threshold.
        """
        trainer, log_probs = self.trainer, log_probs.detach()
        engine, mask = inputs["sampling_per_token_logps"], inputs["completion_mask"]
        bounds = (trainer.vllm_importance_sampling_clip_min, trainer.vllm_importance_sampling_clip_max)
        ratio = importance_ratio(log_probs, engine, mask, trainer.vllm_importance_sampling_mode, *bounds)
        inputs["importance_sampling_ratio"] = ratio
        rows = slice(None) if skipping is None else skipping.has_signal
        here = logprob_drift.sums(log_probs[rows], engine[rows], mask[rows], ratio[rows])
        self._sums = here if self._sums is None else self._sums + here
        if trainer.accelerator.sync_gradients:
            total, self._sums = self._sums, None
            logprob_drift.check(trainer, total, self.max_gap)
