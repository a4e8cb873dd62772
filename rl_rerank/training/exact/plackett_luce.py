"""The Plackett-Luce distribution over orders that scores define.

An order y is drawn place by place, each document d among those that are left with the probability

    pi(d | y_1..k-1) = exp(s_d) / sum over the documents j that are left of exp(s_j)

so log p(y) = sum over places k of log pi(y_k | y_1..k-1). With `k` only the first k places are drawn, which is the
distribution of the first k documents. Documents that a mask leaves out are never placed and change nothing.

Sources: Plackett 1975, https://doi.org/10.2307/2346567; Luce 1959, Individual Choice Behavior; drawing by Gumbel noise:
Yellott 1977, https://doi.org/10.1016/0022-2496(77)90026-8
"""

# Shape legend: L lists, N documents (padded), G orders of a list, K places.

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

ABSENT = -1e30
"""The score of a document that a mask leaves out: finite, so that no gradient is not a number."""


def sample(scores: Tensor, mask: Tensor, num_orders: int, generators: list[Generator]) -> Tensor:
    """Draw orders: the order of s_d + Gumbel noise is Plackett-Luce distributed.

    Args:
        scores: [L, N].
        mask: [L, N] of bool, True for documents.
        generators: one a list, on the CPU: what is drawn does not depend on what else is in the batch.

    Returns:
        [L, G, N] indices of documents, first place first; those that are masked out stand at the end.
    """
    counts = mask.sum(1).tolist()
    noise = torch.zeros(scores.size(0), num_orders, scores.size(1))
    for row, (generator, count) in enumerate(zip(generators, counts, strict=True)):
        # Exponential noise e makes -log e a Gumbel variable. It is drawn for this list's documents only.
        drawn = torch.empty(num_orders, count).exponential_(generator=generator)
        noise[row, :, mask[row].cpu()] = -drawn.clamp(min=torch.finfo(drawn.dtype).tiny).log()
    keys = scores.detach().float().unsqueeze(1) + noise.to(scores.device)
    return keys.masked_fill(~mask.unsqueeze(1), -torch.inf).argsort(dim=2, descending=True, stable=True)


@dataclass(frozen=True)
class Placed:
    """Orders under the scores: every tensor runs over places, and is 0 behind the last document and behind place k."""

    orders: Tensor
    """[L, G, N]."""
    scores: Tensor
    """[L, G, N], of the document at each place; `ABSENT` where there is none."""
    left: Tensor
    """[L, G, N], log of the sum of exp(s) over the documents that are left when the place is filled."""
    counts: Tensor
    """[L, G, N] of bool: the places that count, those of documents up to place k."""

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
    present = scores.masked_fill(~mask, ABSENT).unsqueeze(1).expand(orders.shape)
    along = present.gather(2, orders)
    left = along.flip(2).logcumsumexp(2).flip(2)
    last = mask.sum(1) if k is None else mask.sum(1).clamp(max=k)
    counts = torch.arange(scores.size(1), device=scores.device) < last.view(-1, 1, 1)
    return Placed(orders, along, left, counts.expand(orders.shape))


def log_prob(scores: Tensor, orders: Tensor, mask: Tensor, k: int | None = None) -> Tensor:
    """[L, G] natural log-probabilities of the orders' first k places."""
    return place(scores, orders, mask, k).log_probs.sum(2)


def entropy(placed: Placed) -> Tensor:
    """[L, G], the sum over an order's places of the entropy of what stands there, in nats.

    Its mean over drawn orders estimates the entropy of the distribution: the chain rule, with the expectation over each
    place taken exactly.
    """
    # H_k = log Z_k - sum_d pi(d) s_d over the documents that are left.
    return ((placed.left - _mean_left(placed, placed.scores)) * placed.counts).sum(2)


def kl(placed: Placed, reference: Placed) -> Tensor:
    """[L, G], the sum over an order's places of KL(pi || reference) of what stands there, in nats.

    Its mean over drawn orders estimates the divergence of the two distributions, as in `entropy`. It is never below 0.
    """
    # log pi(d) - log q(d) = (s_d - t_d) - (log Z - log Z'), in expectation over d.
    apart = torch.where(placed.scores > ABSENT, placed.scores - reference.scores, 0.0)
    return ((_mean_left(placed, apart) - placed.left + reference.left) * placed.counts).sum(2)


def _mean_left(placed: Placed, values: Tensor) -> Tensor:
    """[L, G, N], at each place the mean under pi of the values of the documents that are left.

    Args:
        values: [L, G, N], of the document at each place.
    """
    # [L, G, K, N]: pi of the document at place n for place k, 0 for those that are placed before k.
    weights = left_probabilities(placed)
    values = torch.where(placed.scores > ABSENT, values, 0.0)
    return (weights * values.unsqueeze(2)).sum(3)


def left_probabilities(placed: Placed) -> Tensor:
    """[L, G, K, N], pi(document at place n | the first k - 1 places); 0 where n < k, whose document is placed."""
    n = placed.scores.size(2)
    is_left = torch.ones(n, n, dtype=torch.bool, device=placed.scores.device).triu()
    logs = placed.scores.unsqueeze(2) - placed.left.unsqueeze(3)
    shown = is_left & (placed.scores > ABSENT).unsqueeze(2)
    return logs.masked_fill(~shown, -torch.inf).exp()
