"""Whether the engine that samples holds the weights that are trained.

An engine with stale weights raises no error: rewards come in, gradients flow, and nothing is learned. The only sign is
the difference between the engine's log-probabilities of the sampled tokens and the trainer's.
"""

# Shape legend: B completions, C completion tokens.

from __future__ import annotations

import torch
from torch import Tensor


def sums(trainer: Tensor, engine: Tensor, mask: Tensor, ratio: Tensor) -> Tensor:
    """What one process contributes: [gap in nats, tokens, masked sequences, sequences], to be added over processes.

    Args:
        trainer: [B, C] log-probabilities under the trainer's weights.
        engine: [B, C] those that the engine sampled with; NaN where it gave none.
        mask: [B, C], 1 for completion tokens.
        ratio: [B, C] or [B, 1] importance ratios, 0 where the correction leaves a token or a sequence out.
    """
    is_known = mask.bool() & ~torch.isnan(engine)
    gap = (trainer - engine).abs()[is_known].sum()
    is_masked = (ratio.expand_as(mask) * mask == 0).all(dim=1)
    return torch.stack([gap, is_known.sum(), is_masked.sum(), torch.tensor(len(mask), device=mask.device)]).float()


def shares(total: Tensor) -> tuple[float, float]:
    """(mean gap of a token, share of masked sequences) from added-up `sums`."""
    gap, tokens, masked, sequences = total.tolist()
    return gap / max(tokens, 1.0), masked / max(sequences, 1.0)


def require(gap: float, limit: float, *, step: int) -> None:
    """Refuse to train on samples of another policy.

    Raises:
        ValueError: if `gap` is above `limit` or not a number.
    """
    if not gap <= limit:
        raise ValueError(
            f"step {step}: vLLM's log-probabilities of the tokens that it sampled are {gap:.3g} nats from the "
            f"trainer's on average, more than max_logprob_gap={limit:g}: it does not hold the policy's weights, or "
            "computes very differently. Nothing was learned from these samples. The checkpoints before this step are "
            "good; compare dtypes and rollout_args, or sample with rollout=hf"
        )
