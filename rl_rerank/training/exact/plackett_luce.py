"""The Plackett-Luce distribution over orders that scores define.

An order y is drawn place by place: each place takes a document d among those that are left with the probability

    pi(d | y_1..k-1) = exp(s_d) / sum over the documents j that are left of exp(s_j)

so log p(y) = sum over places k of log pi(y_k | y_1..k-1). With `k` only the first k places are drawn, which is the
distribution of the first k documents. Masked-out documents are never placed and change nothing.

Sources: Plackett 1975, https://doi.org/10.2307/2346567; Luce 1959, Individual Choice Behavior; drawing by Gumbel noise:
Yellott 1977, https://doi.org/10.1016/0022-2496(77)90026-8
"""

# Shape legend: L lists, N documents (padded), G orders of a list, K places.

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

ABSENT = -1e30
"""The score of a masked-out document. It is finite because -inf minus -inf is nan, in values and in gradients."""


def sample(scores: Tensor, mask: Tensor, num_orders: int, generators: list[Generator]) -> Tensor:
    """Draw orders: sorting by s_d + Gumbel noise gives the Plackett-Luce distribution.

    Args:
        scores: [L, N].
        mask: [L, N] of bool, True for documents.
        generators: one for each list, on the CPU, so that its orders do not depend on the rest of the batch.

    Returns:
        [L, G, N] indices of documents, first place first; masked-out documents come last.
    """
    counts = mask.sum(1).tolist()
    noise = torch.zeros(scores.size(0), num_orders, scores.size(1))
    for row, (generator, count) in enumerate(zip(generators, counts, strict=True)):
        # Exponential noise e makes -log e a Gumbel variable. It is drawn for this list's documents only: noise for the
        # padding would advance the generator by the length of the longest list in the batch.
        drawn = torch.empty(num_orders, count).exponential_(generator=generator)
        # The exponential can round to exactly 0, whose Gumbel noise would be infinite: that document would come first
        # whatever its score is.
        noise[row, :, mask[row].cpu()] = -drawn.clamp(min=torch.finfo(drawn.dtype).tiny).log()
    # In float32 whatever the scores' type: bfloat16 has so few values that many keys would tie, and a stable sort would
    # favour the documents that stand first. Ties of float32 are broken the same way on every device.
    keys = scores.detach().float().unsqueeze(1) + noise.to(scores.device)
    return keys.masked_fill(~mask.unsqueeze(1), -torch.inf).argsort(dim=2, descending=True, stable=True)


@dataclass(frozen=True)
class Placed:
    """Orders under the scores. Every tensor runs over places; those that do not count add 0 to each sum below."""

    orders: Tensor
    """[L, G, N]."""
    scores: Tensor
    """[L, G, N], the score of the document at each place; `ABSENT` behind the last document."""
    left: Tensor
    """[L, G, N], log of the sum of exp(s) over the documents that are left when the place is filled."""
    counts: Tensor
    """[L, G, N] of bool: the places that count, which are those of documents up to place k."""

    @property
    def log_probs(self) -> Tensor:
        """[L, G, N], log pi(y_k | y_1..k-1) of each place."""
        return ((self.scores - self.left) * self.counts).masked_fill(~self.counts, 0.0)


def place(scores: Tensor, orders: Tensor, mask: Tensor, k: int | None = None) -> Placed:
    """Lay orders over scores.

    Args:
        scores: [L, N].
        orders: [L, G, N], as `sample` gives them.
        mask: [L, N] of bool.
        k: how many places are drawn; None: all.
    """
    # float32 rounds ABSENT. Later comparisons with it are exact all the same, as PyTorch rounds the number to the
    # tensor's type there too.
    present = scores.masked_fill(~mask, ABSENT).unsqueeze(1).expand(orders.shape)
    along = present.gather(2, orders)
    # Cumulated from the last place, so that each sum is over the documents still left. Subtracting the placed ones from
    # the whole sum would lose every digit at the last places, where a sharp policy has little mass left. Padding is
    # last and vanishes beside any score: exp(ABSENT - s) is exactly 0.
    left = along.flip(2).logcumsumexp(2).flip(2)
    last = mask.sum(1) if k is None else mask.sum(1).clamp(max=k)
    counts = torch.arange(scores.size(1), device=scores.device) < last.view(-1, 1, 1)
    return Placed(orders, along, left, counts.expand(orders.shape))


def log_prob(scores: Tensor, orders: Tensor, mask: Tensor, k: int | None = None) -> Tensor:
    """Return the [L, G] natural log-probabilities of the orders' first k places."""
    return place(scores, orders, mask, k).log_probs.sum(2)


def entropy(placed: Placed) -> Tensor:
    """Return the [L, G] sums over an order's places of the entropy of the choice at each, in nats.

    Its mean over drawn orders estimates the entropy of the distribution: the chain rule, with the expectation over each
    place taken exactly.
    """
    # H_k = log Z_k - sum_d pi(d) s_d over the documents that are left.
    return ((placed.left - _mean_left(placed, placed.scores)) * placed.counts).sum(2)


def kl(placed: Placed, reference: Placed) -> Tensor:
    """Return the [L, G] sums over an order's places of KL(pi || reference) of the choice at each, in nats.

    Its mean over drawn orders estimates the divergence of the two distributions, as in `entropy`. It is never below 0.
    """
    # log pi(d) - log q(d) = (s_d - t_d) - (log Z - log Z'), in expectation over d.
    apart = torch.where(placed.scores > ABSENT, placed.scores - reference.scores, 0.0)
    return ((_mean_left(placed, apart) - placed.left + reference.left) * placed.counts).sum(2)


def _mean_left(placed: Placed, values: Tensor) -> Tensor:
    """Return the [L, G, N] means under pi, at each place, of the values of the documents that are left.

    Args:
        values: [L, G, N], one for the document at each place.
    """
    # [L, G, K, N]: pi of the document at place n for place k, 0 for those that are placed before k.
    weights = left_probabilities(placed)
    # Padding has weight 0 and adds nothing to the mean, but its value is the gradient of its weight: 0 keeps -1e30 out
    # of the backward.
    values = torch.where(placed.scores > ABSENT, values, 0.0)
    return (weights * values.unsqueeze(2)).sum(3)


def left_probabilities(placed: Placed) -> Tensor:
    """Return the [L, G, K, N] pi(document at place n | the first k - 1 places); 0 where n < k, which are placed."""
    n = placed.scores.size(2)
    is_left = torch.ones(n, n, dtype=torch.bool, device=placed.scores.device).triu()
    # A document that is already placed can score far above those left, and exp overflows there. Hence -inf before exp
    # and not a factor 0 after it: 0 * inf is nan, in the gradient too. Behind the last document the difference is
    # ABSENT - ABSENT = 0, a probability of 1, so these places are masked as well.
    logs = placed.scores.unsqueeze(2) - placed.left.unsqueeze(3)
    shown = is_left & (placed.scores > ABSENT).unsqueeze(2)
    return logs.masked_fill(~shown, -torch.inf).exp()
