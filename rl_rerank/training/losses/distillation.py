"""Losses on a teacher's scores, which may be any finite numbers.

Notation: s are the model's scores, t the teacher's. A pair is of any two documents of a list, also of two with equal t.
A model's score is a difference of two logits (paradigm pointwise), the log-odds of relevance, or a logit (first_token),
which has no natural zero.
"""

# Shape legend: L lists, N documents (padded).

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from rl_rerank.training.losses.base import (
    RankingLoss,
    Weights,
    better,
    margins,
    mean_over_documents,
    softplus,
    weighted,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MSE(RankingLoss):
    """Mean over documents of (s - scale t)^2.

    No offset is fitted and `scale` is not learned: with scale 1 the model learns the teacher's raw scores, which suits
    a teacher whose scores are log-odds too, such as a cross-encoder's logits before a sigmoid. Scores that have their
    zero elsewhere, such as points from 0 to 10, are for the losses that no offset of t changes: margin_mse,
    soft_ranknet and list_kl. Ettin rerankers, 2026, https://huggingface.co/blog/ettin-reranker.
    """

    of_pairs: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("scores",)

    scale: float = 1.0

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        return mean_over_documents((scores - self.scale * grades) ** 2, mask, items)


@dataclass(frozen=True)
class MarginMSE(RankingLoss):
    """Mean over pairs of ((s_i - s_j) - scale (t_i - t_j))^2.

    Hofstaetter et al. 2020, https://arxiv.org/abs/2010.02666, who take pairs of a relevant document and another one;
    here all pairs of a list count.
    """

    targets: ClassVar[tuple[str, ...]] = ("scores",)

    scale: float = 1.0

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        values = (margins(scores) - self.scale * margins(grades)) ** 2
        return _mean_over_all_pairs(values, grades, mask, items, between)


@dataclass(frozen=True)
class SoftRankNet(RankingLoss):
    """Mean over pairs of the cross-entropy -p log sigmoid(s_i - s_j) - (1 - p) log sigmoid(s_j - s_i).

    p = sigmoid((t_i - t_j) / temperature) is the teacher's probability that document i is better. Burges et al. 2005,
    https://doi.org/10.1145/1102351.1102363, whose target probabilities need not be 0 or 1.
    """

    targets: ClassVar[tuple[str, ...]] = ("scores",)

    temperature: float = 1.0

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        apart = margins(scores)
        values = softplus(apart) - (margins(grades) / self.temperature).sigmoid() * apart
        return _mean_over_all_pairs(values, grades, mask, items, between)


@dataclass(frozen=True)
class ListKL(RankingLoss):
    """KL(q || p) = sum_i q_i log(q_i / p_i), with q the softmax of t / temperature over the list and p that of s.

    It is `listnet`'s cross-entropy less the entropy of q, so it is 0 where the model agrees. With weights a document's
    term is q_i log(q_i / p_i) - q_i + p_i: without weights these sum to the same, and as none of them is below 0, the
    model that agrees stays the best for any weights. Lists as in RocketQAv2, Ren et al. 2021,
    https://arxiv.org/abs/2110.07367; a temperature as in Hinton et al. 2015, https://arxiv.org/abs/1503.02531, but of
    the teacher alone.
    """

    of_pairs: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("scores",)

    temperature: float = 1.0

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        # Zeros stand for the -inf of padding, whose product with q = 0 would be NaN.
        log_p = scores.masked_fill(~mask, -inf).log_softmax(1).masked_fill(~mask, 0.0)
        log_q = (grades / self.temperature).masked_fill(~mask, -inf).log_softmax(1).masked_fill(~mask, 0.0)
        p, q = log_p.exp(), log_q.exp()
        values = q * (log_q - log_p) - q + p
        if items is not None:
            values = values * items
        return values.masked_fill(~mask, 0.0).sum(1)


def _mean_over_all_pairs(values: Tensor, targets: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
    """Divide weighted [L, N, N] values by the number of pairs; 0 without pairs: [L].

    A pair counts once, with its better document first; of equal targets, half from either side, so that the order of
    the list has no effect on which of two weights a pair has.
    """
    first = better(targets, mask)
    one = mask.new_ones(targets.size(1)).diag()
    equal = (targets.unsqueeze(2) == targets.unsqueeze(1)) & mask.unsqueeze(2) & mask.unsqueeze(1) & ~one
    shares = first.to(values.dtype) + 0.5 * equal.to(values.dtype)
    total = weighted(values * shares, first | equal, items, between).sum((1, 2))
    return total / shares.sum((1, 2)).clamp(min=1)
