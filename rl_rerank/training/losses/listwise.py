"""Listwise and pointwise ranking losses.

Notation: p = softmax of the scores over the list; g are the grades.
"""

# Shape legend: L lists, N documents (padded).

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.training.losses.base import RankingLoss, Weights, mean_over_documents

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Softmax(RankingLoss):
    """-sum_i g_i / (sum_j g_j) log p_i."""

    of_pairs: ClassVar[bool] = False

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        gains = grades.masked_fill(~mask, 0.0)
        shares = gains / gains.sum(1, keepdim=True).clamp(min=1e-12)
        return _cross_entropy(scores, shares, mask, items)


@dataclass(frozen=True)
class ListNet(RankingLoss):
    """-sum_i q_i log p_i, where q is the softmax of the grades over `temperature`.

    The top-one probabilities of Cao et al. 2007, https://doi.org/10.1145/1273496.1273513.
    """

    of_pairs: ClassVar[bool] = False

    temperature: float = 1.0

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        shares = (grades / self.temperature).masked_fill(~mask, -inf).softmax(1)
        return _cross_entropy(scores, shares, mask, items)


@dataclass(frozen=True)
class ListMLE(RankingLoss):
    """-log of the Plackett-Luce probability of the order by grades.

    Each document is compared with all that are not better, so the loss does not depend on an order among equal
    grades. Xia et al. 2008, https://doi.org/10.1145/1390156.1390306; ties: Breslow 1974,
    https://doi.org/10.2307/2529620.
    """

    of_pairs: ClassVar[bool] = False

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        return _likelihood(scores, grades, mask, None, items)


@dataclass(frozen=True)
class PlackettLuce(RankingLoss):
    """`ListMLE` for the first k places only.

    A document's weight is its probability of being among them under a random order of equal grades.
    """

    of_pairs: ClassVar[bool] = False

    k: int = 10

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        return _likelihood(scores, grades, mask, self.k, items)


@dataclass(frozen=True)
class BCE(RankingLoss):
    """Mean over documents of the binary cross-entropy of sigmoid(s); grades of at least `relevant` are positive."""

    of_pairs: ClassVar[bool] = False
    of_documents: ClassVar[bool] = True
    targets: ClassVar[tuple[str, ...]] = ("grades",)

    relevant: int = 1

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        labels = self.relevant_documents(grades).to(scores.dtype)
        values = binary_cross_entropy_with_logits(scores, labels, reduction="none")
        return mean_over_documents(values, mask, items)

    def relevant_documents(self, grades: Tensor) -> Tensor:
        return grades >= self.relevant


def _cross_entropy(scores: Tensor, shares: Tensor, mask: Tensor, item_weights: Tensor | None) -> Tensor:
    logs = scores.masked_fill(~mask, -inf).log_softmax(1).masked_fill(~mask, 0.0)
    return -(shares * logs * (1.0 if item_weights is None else item_weights)).sum(1)


def _likelihood(scores: Tensor, grades: Tensor, mask: Tensor, k: int | None, item_weights: Tensor | None) -> Tensor:
    not_better = (grades.unsqueeze(1) <= grades.unsqueeze(2)) & mask.unsqueeze(1)
    # A row of a document that is not there keeps itself, so that no row is empty.
    not_better = not_better | mask.new_ones(scores.size(1)).diag()
    left = scores.unsqueeze(1).expand(not_better.shape).masked_fill(~not_better, -inf).logsumexp(2)
    values = left - scores
    if k is not None:
        above = ((grades.unsqueeze(1) > grades.unsqueeze(2)) & mask.unsqueeze(1)).sum(2)
        same = ((grades.unsqueeze(1) == grades.unsqueeze(2)) & mask.unsqueeze(1)).sum(2).clamp(min=1)
        values = values * ((k - above) / same).clamp(0, 1)
    if item_weights is not None:
        values = values * item_weights
    return values.masked_fill(~mask, 0.0).sum(1)
