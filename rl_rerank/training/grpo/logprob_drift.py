"""Check that the sampling engine uses the current weights of the trainer.

An engine with stale weights raises no error: rewards and gradients look normal, and nothing is learned. The only sign
is the gap between the engine's and the trainer's log-probabilities of the sampled tokens.
"""

# Shape legend: B completions, C completion tokens.

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def sums(trainer: Tensor, engine: Tensor, mask: Tensor, ratio: Tensor) -> Tensor:
    """Sum up one process's [gap in nats, tokens, masked sequences, sequences], to be added over processes.

    Args:
        trainer: [B, C] log-probabilities under the trainer's weights.
        engine: [B, C] log-probabilities under the sampling engine; NaN where it gave none.
        mask: [B, C], 1 for completion tokens.
        ratio: [B, C] or [B, 1] importance ratios, 0 where the correction masks a token or a sequence.
    """
    is_known = mask.bool() & ~torch.isnan(engine)
    gap = (trainer - engine).abs()[is_known].sum()
    is_masked = (ratio.expand_as(mask) * mask == 0).all(dim=1)
    return torch.stack([gap, is_known.sum(), is_masked.sum(), torch.tensor(len(mask), device=mask.device)]).float()


def shares(total: Tensor) -> tuple[float, float]:
    """Compute (mean gap per token, share of masked sequences) from the total of `sums`."""
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
            "good; compare dtypes and rollout.args, or sample with rollout=hf"
        )


def of_batch(output: Mapping[str, Tensor]) -> Tensor:
    """Compute `sums` of a generation batch of trl's trainer, whose old log-probabilities were computed."""
    names = ("old_per_token_logps", "sampling_per_token_logps", "completion_mask", "importance_sampling_ratio")
    return sums(*(output[name] for name in names))


def check(trainer: Any, here: Tensor, limit: float) -> None:
    """Log the log-probability gap between vLLM and a trl.GRPOTrainer, and refuse to train above the limit.

    Args:
        here: `sums` of this process.

    Raises:
        ValueError: on every process, if the mean over all sampled tokens is above `limit`.
    """
    gap, masked = shares(trainer.accelerator.gather(here.unsqueeze(0)).sum(0))
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    metrics["rollout/logprob_gap"].append(gap)
    metrics["rollout/masked_sequences"].append(masked)
    require(gap, limit, step=trainer.state.global_step + 1)
