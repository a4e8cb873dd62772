"""Pairwise losses: the document with the higher grade should have the higher score.

Notation: d_ij = s_i - s_j, where document i has the higher grade; softplus(x) = log(1 + exp(x)).
"""

# Shape legend: L lists, N documents (padded).

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.training.losses.base import RankingLoss, Weights, better, margins, mean_over_pairs, softplus, weighted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Hinge(RankingLoss):
    """Mean over pairs of max(0, margin - d_ij). Herbrich et al. 2000."""

    margin: float = 1.0

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        values = (self.margin - margins(scores)).clamp(min=0)
        return mean_over_pairs(values, better(grades, mask), items, between)


@dataclass(frozen=True)
class RankNet(RankingLoss):
    """Mean over pairs of softplus(-d_ij). Burges et al. 2005, https://doi.org/10.1145/1102351.1102363."""

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        return mean_over_pairs(softplus(-margins(scores)), better(grades, mask), items, between)


@dataclass(frozen=True)
class LambdaRank(RankingLoss):
    """Sum over pairs of |change of nDCG@k if i and j swap places| softplus(-d_ij), with linear gains.

    Burges 2010, MSR-TR-2010-82; as a loss: Wang et al. 2018, https://doi.org/10.1145/3269206.3271784.
    """

    k: int | None = None

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        import torch

        pairs = better(grades, mask)
        discounts = _discounts(scores.detach(), mask, self.k)
        order = torch.arange(scores.size(1), 0, -1, device=scores.device).expand_as(scores)
        ideal_discounts = _discounts(order, mask, self.k)
        best = grades.masked_fill(~mask, 0.0).sort(dim=1, descending=True).values
        ideal = (best * ideal_discounts.sort(dim=1, descending=True).values).sum(1)
        changes = (margins(grades) * margins(discounts)).abs() / ideal.clamp(min=1e-12).view(-1, 1, 1)
        return weighted(changes * softplus(-margins(scores)), pairs, items, between).sum((1, 2))


@dataclass(frozen=True)
class First(RankingLoss):
    """Mean over pairs of softplus(-d_ij) / (r_i + r_j).

    r are ranks by grade; equal grades share the mean of theirs. FIRST, Reddy et al. 2024,
    https://arxiv.org/abs/2406.15657, and its code.
    """

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        ranks = mean_ranks(grades, mask)
        values = softplus(-margins(scores)) / (ranks.unsqueeze(2) + ranks.unsqueeze(1))
        return mean_over_pairs(values, better(grades, mask), items, between)


@dataclass(frozen=True)
class AnchoredHinge(RankingLoss):
    """Mean over pairs of max(0, margin - (f_i - f_j)) + anchor_weight (b_i + b_j).

    f = sigmoid(s), and b = max((f - (y + 1/2) / levels)^2 - width^2, 0) keeps a score near the anchor of its grade y.
    After Zou et al. 2021, https://arxiv.org/abs/2105.11108; form and constants from memory.
    """

    targets: ClassVar[tuple[str, ...]] = ("grades",)

    margin: float = 0.1
    anchor_weight: float = 0.7
    levels: int = 5
    width: float = 0.1

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        if bool((grades[mask] >= self.levels).any()):
            highest = grades[mask].max()
            raise ValueError(f"anchored_hinge: a document is graded {highest:g}, and levels={self.levels} end below")
        f = scores.sigmoid()
        outside = ((f - (grades + 0.5) / self.levels) ** 2 - self.width**2).clamp(min=0)
        anchors = outside.unsqueeze(2) + outside.unsqueeze(1)
        values = (self.margin - margins(f)).clamp(min=0) + self.anchor_weight * anchors
        return mean_over_pairs(values, better(grades, mask), items, between)


def mean_ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Rank from 1 by descending value; equal values share their mean rank: [L, N]."""
    others = mask.unsqueeze(1)
    above = ((values.unsqueeze(1) > values.unsqueeze(2)) & others).sum(2)
    same = ((values.unsqueeze(1) == values.unsqueeze(2)) & others).sum(2)
    return above + (same + 1) / 2


def _discounts(values: Tensor, mask: Tensor, k: int | None) -> Tensor:
    """Compute 1 / log2(rank + 1) by descending value; 0 after place k and for padding: [L, N]."""
    ranks = mean_ranks(values, mask)
    counts = mask if k is None else mask & (ranks <= k)
    return (1 / (ranks + 1).log2()).masked_fill(~counts, 0.0)
