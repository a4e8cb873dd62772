"""What ranking losses have in common: which documents are better than which, and how pairs are averaged."""

# Shape legend: L lists, N documents (padded).

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class RankingLoss(Protocol):
    """A loss of scores against grades, the same whatever the order in which a list's documents are given."""

    def __call__(
        self,
        scores: Tensor,
        grades: Tensor,
        mask: Tensor,
        *,
        item_weights: Tensor | None = None,
        pair_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss of each list: [L].

        Args:
            scores: [L, N].
            grades: [L, N], >= 0.
            mask: [L, N] of bool, True for documents; others change nothing.
            item_weights: [L, N], what each document's part is multiplied with.
            pair_weights: [L, N, N], what the part of a better document (first) and a worse one is multiplied with.

        Raises:
            ValueError: for pair weights where a loss is not made of pairs.
        """
        ...


def better(grades: Tensor, mask: Tensor) -> Tensor:
    """[L, N, N] of bool: whether the first document has the higher grade of two that are there."""
    return (grades.unsqueeze(2) > grades.unsqueeze(1)) & mask.unsqueeze(2) & mask.unsqueeze(1)


def margins(scores: Tensor) -> Tensor:
    """[L, N, N], by how much the first document's score is above the second's."""
    return scores.unsqueeze(2) - scores.unsqueeze(1)


def weighted(values: Tensor, pairs: Tensor, item_weights: Tensor | None, pair_weights: Tensor | None) -> Tensor:
    """[L, N, N] values times the weights of both documents and of the pair; 0 where there is no pair."""
    if item_weights is not None:
        values = values * item_weights.unsqueeze(2) * item_weights.unsqueeze(1)
    if pair_weights is not None:
        values = values * pair_weights
    return values.masked_fill(~pairs, 0.0)


def mean_over_pairs(
    values: Tensor, pairs: Tensor, item_weights: Tensor | None = None, pair_weights: Tensor | None = None
) -> Tensor:
    """[L], weighted values over the number of pairs, not over the sum of their weights; 0 where there is none."""
    total = weighted(values, pairs, item_weights, pair_weights).sum((1, 2))
    return total / pairs.sum((1, 2)).clamp(min=1)


def mean_over_documents(values: Tensor, mask: Tensor, item_weights: Tensor | None = None) -> Tensor:
    """[L], weighted values over the number of documents."""
    if item_weights is not None:
        values = values * item_weights
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def refuse_pair_weights(name: str, pair_weights: Tensor | None) -> None:
    """Refuse what a loss that is not made of pairs could only ignore."""
    if pair_weights is not None:
        raise ValueError(f"the loss {name!r} is not made of pairs, so it takes no pair_weights")
