"""Losses of pairs by their distance: documents whose grades are k levels apart are compared with skip k.

Notation: d_ij = s_i - s_j, where document i has the higher grade; softplus(x) = log(1 + exp(x)). Reconstructions from
the abstract of RankList, https://arxiv.org/abs/2508.09826, without its formulas. Skips may grow during training
("progressive exposure"): from `first_skips` at its beginning to `skips` at its end.
"""

# Shape legend: L lists, N documents (padded).

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from rl_rerank.training.losses.base import (
    RankingLoss,
    Weights,
    better,
    margins,
    mean_over_pairs,
    softplus,
    weighted,
)

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S", bound="SkipRankNet")


@dataclass(frozen=True)
class SkipRankNet(RankingLoss):
    """Mean over skips k = 1 to `skips` of the mean over pairs of softplus(-d_ij).

    The pairs are those whose grades are k levels apart and differ by more than `margin`. A skip without pairs in a
    list is 0 there. With one skip it is RankNet of neighbours.
    """

    skips: int = 3
    margin: float = 0.0
    first_skips: int | None = None
    """The skips with which training begins; null: `skips`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_skips is not None and self.first_skips > self.skips:
            raise ValueError(f"first_skips must be at most skips={self.skips}; got {self.first_skips}")

    def at(self: S, share: float) -> S:
        """Return the loss with the skips of that share of the training, each number for as many steps."""
        if self.first_skips is None:
            return self
        grown = int(share * (self.skips - self.first_skips + 1))
        return replace(self, skips=min(self.first_skips + grown, self.skips), first_skips=None)

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        import torch

        pairs = better(grades, mask) & (margins(grades) > self.margin)
        apart, values = margins(levels(grades, mask)), softplus(-margins(scores))
        chosen = [pairs & (apart == skip) for skip in range(1, self.skips + 1)]
        return torch.stack([mean_over_pairs(values, some, items, between) for some in chosen]).mean(0)


@dataclass(frozen=True)
class RankListStyle(SkipRankNet):
    """Mean over skips k = 1 to `skips` of t log(1 + sum of exp(-d_ij / t)), with the temperature t.

    The inner sum is over the pairs of skip k: a smooth maximum, whose gradient is that of the worst pairs, the more so
    the lower the temperature.
    """

    temperature: float = 1.0
    last_temperature: float | None = None
    """The temperature at the end of training, approached by equal factors; null: `temperature`."""

    def at(self, share: float) -> RankListStyle:
        found = super().at(share)
        if self.last_temperature is None:
            return found
        now = self.temperature * (self.last_temperature / self.temperature) ** share
        return replace(found, temperature=now, last_temperature=None)

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        import torch

        pairs = better(grades, mask) & (margins(grades) > self.margin)
        apart = margins(levels(grades, mask))
        # A weight multiplies a pair's exp, so it is added as a logarithm.
        logs = weighted(torch.ones_like(margins(scores)), pairs, items, between).log()
        wrong = -margins(scores) / self.temperature + logs
        losses = []
        for skip in range(1, self.skips + 1):
            chosen = wrong.masked_fill(~(pairs & (apart == skip)), -torch.inf).flatten(1)
            zero = torch.zeros_like(chosen[:, :1])
            losses.append(self.temperature * torch.cat([zero, chosen], dim=1).logsumexp(1))
        return torch.stack(losses).mean(0)


def levels(grades: Tensor, mask: Tensor) -> Tensor:
    """Count the distinct grades of the list below each document's: [L, N]."""
    lower = (grades.unsqueeze(1) < grades.unsqueeze(2)) & mask.unsqueeze(1)
    # The first document of each grade stands for the grade.
    same = (grades.unsqueeze(1) == grades.unsqueeze(2)) & mask.unsqueeze(1)
    is_first = ~same.tril(-1).any(2)
    return (lower & is_first.unsqueeze(1)).sum(2)
