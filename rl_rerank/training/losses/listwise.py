"""Losses of whole lists, and of documents alone.

With p = softmax of the scores over the list and g the grades:

    softmax        -sum_i g_i / (sum_j g_j) log p_i
    listnet        -sum_i q_i log p_i with q = softmax of the grades over `temperature`; the top-one probabilities of
                   Cao et al. 2007, https://doi.org/10.1145/1273496.1273513
    listmle        -log of the Plackett-Luce probability of the order by grades. Of documents of one grade each is
                   measured against all that are not better, so that the loss depends on no order among them.
                   Xia et al. 2008, https://doi.org/10.1145/1390156.1390306; ties: Breslow 1974,
                   https://doi.org/10.2307/2529620
    plackett_luce  the same for the first k places only: a document counts with the probability that it is among them,
                   where the order of equal grades is random
    bce            mean over documents of the binary cross-entropy of sigmoid(s); relevant from the grade `relevant` on
"""

# Shape legend: L lists, N documents (padded).

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rl_rerank.training.losses.pairs import mean_over_documents, refuse_pair_weights


def softmax(
    scores: Tensor,
    grades: Tensor,
    mask: Tensor,
    *,
    item_weights: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> Tensor:
    refuse_pair_weights("softmax", pair_weights)
    gains = grades.masked_fill(~mask, 0.0)
    shares = gains / gains.sum(1, keepdim=True).clamp(min=1e-12)
    return _cross_entropy(scores, shares, mask, item_weights)


def listnet(
    scores: Tensor,
    grades: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    item_weights: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> Tensor:
    refuse_pair_weights("listnet", pair_weights)
    shares = (grades / temperature).masked_fill(~mask, -torch.inf).softmax(1)
    return _cross_entropy(scores, shares, mask, item_weights)


def listmle(
    scores: Tensor,
    grades: Tensor,
    mask: Tensor,
    *,
    item_weights: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> Tensor:
    refuse_pair_weights("listmle", pair_weights)
    return _likelihood(scores, grades, mask, None, item_weights)


def plackett_luce(
    scores: Tensor,
    grades: Tensor,
    mask: Tensor,
    *,
    k: int = 10,
    item_weights: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> Tensor:
    refuse_pair_weights("plackett_luce", pair_weights)
    return _likelihood(scores, grades, mask, k, item_weights)


def bce(
    scores: Tensor,
    grades: Tensor,
    mask: Tensor,
    *,
    relevant: int = 1,
    item_weights: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> Tensor:
    refuse_pair_weights("bce", pair_weights)
    values = binary_cross_entropy_with_logits(scores, (grades >= relevant).to(scores.dtype), reduction="none")
    return mean_over_documents(values, mask, item_weights)


def _cross_entropy(scores: Tensor, shares: Tensor, mask: Tensor, item_weights: Tensor | None) -> Tensor:
    logs = scores.masked_fill(~mask, -torch.inf).log_softmax(1).masked_fill(~mask, 0.0)
    return -(shares * logs * (1.0 if item_weights is None else item_weights)).sum(1)


def _likelihood(scores: Tensor, grades: Tensor, mask: Tensor, k: int | None, item_weights: Tensor | None) -> Tensor:
    not_better = (grades.unsqueeze(1) <= grades.unsqueeze(2)) & mask.unsqueeze(1)
    # A row of a document that is not there keeps itself, so that no row is empty.
    not_better = not_better | torch.eye(scores.size(1), dtype=torch.bool, device=scores.device)
    left = scores.unsqueeze(1).expand(not_better.shape).masked_fill(~not_better, -torch.inf).logsumexp(2)
    values = left - scores
    if k is not None:
        above = ((grades.unsqueeze(1) > grades.unsqueeze(2)) & mask.unsqueeze(1)).sum(2)
        same = ((grades.unsqueeze(1) == grades.unsqueeze(2)) & mask.unsqueeze(1)).sum(2).clamp(min=1)
        values = values * ((k - above) / same).clamp(0, 1)
    if item_weights is not None:
        values = values * item_weights
    return values.masked_fill(~mask, 0.0).sum(1)
