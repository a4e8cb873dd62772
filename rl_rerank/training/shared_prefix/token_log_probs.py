"""Log-probabilities of given tokens, computed a few rows at a time.

The plain formula, `logits.gather(tokens) - logits.logsumexp()`, holds four or five tensors of the logits' size in its
backward pass, and one more in float32 where a model computes in bfloat16. Here it is the gradient alone, which has the
logits' own type.
"""

# Shape legend: N tokens, V vocabulary.

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2**22
"""Elements of the logits that are in float32 at once."""


def token_log_probs(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each token, and the entropy of its distribution.

    Args:
        logits: [N, V].
        tokens: [N].
        temperature: divides the logits.

    Returns:
        Two [N] tensors in float32, natural logarithms. The entropy carries no gradient.
    """
    log_probs, entropy = _TokenLogProbs.apply(logits, tokens, temperature, with_entropy)
    return log_probs, entropy if with_entropy else None


def _split(logits: Tensor) -> tuple[Tensor, ...]:
    """Rows of at most CHUNK elements, or one row."""
    return logits.split(max(1, CHUNK // logits.size(1)))


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        normalisers, entropies = [], []
        for rows in _split(logits):
            values = rows.float().div(temperature)
            normaliser = values.logsumexp(1)
            normalisers.append(normaliser)
            if with_entropy:
                values = values.sub_(normaliser[:, None])
                entropies.append(-values.exp().mul_(values).sum(1))
        log_normaliser = torch.cat(normalisers)
        ctx.save_for_backward(logits, tokens, log_normaliser)
        ctx.temperature = temperature
        entropy = torch.cat(entropies) if with_entropy else log_normaliser.new_empty(0)
        ctx.mark_non_differentiable(entropy)
        return logits.gather(1, tokens[:, None]).squeeze(1).float() / temperature - log_normaliser, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None]:
        """(indicator of the token - probability) / temperature, times what comes in."""
        logits, tokens, log_normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        scaled = grad / ctx.temperature  # [N]
        sizes = [len(rows) for rows in _split(logits)]
        parts = zip(
            result.split(sizes),
            logits.split(sizes),
            log_normaliser[:, None].split(sizes),
            scaled[:, None].split(sizes),
            tokens[:, None].split(sizes),
            strict=True,
        )
        for into, rows, normaliser, weight, token in parts:
            values = (rows.float() / ctx.temperature).sub_(normaliser).exp_().mul_(-weight)
            into.copy_(values.scatter_add_(1, token, weight))
        return result, None, None, None
