"""The interface of ranking losses, with pairs of documents and their averages."""

# Shape legend: L lists, N documents (padded).

from __future__ import annotations

from dataclasses import Field, dataclass, fields
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = "Tensor | None"


@dataclass(frozen=True)
class RankingLoss:
    """A loss of scores against grades or a teacher's scores, invariant to the order of a list's documents.

    A loss is a frozen dataclass under the entry point `rl_rerank.loss`; its fields are `loss_params`. Integer fields
    must be at least 1, other numbers at least 0. Its module must import without torch, because settings are also
    checked without it.
    """

    of_pairs: ClassVar[bool] = True
    """Whether it is a sum over pairs of documents and takes `pair_weights`."""
    of_documents: ClassVar[bool] = False
    """Whether it compares each document with its own judgment alone (pointwise) and has `relevant_documents`."""
    targets: ClassVar[tuple[str, ...]] = ("grades", "order")
    """What it can read as `grades`: `grades`, the judgments; `order`, grades n to 1 along a gold order of n documents;
    `scores`, a teacher's, which may be any finite numbers."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field, getattr(self, field.name))

    def __call__(
        self,
        scores: Tensor,
        grades: Tensor,
        mask: Tensor,
        *,
        item_weights: Tensor | None = None,
        pair_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of each list: [L].

        Args:
            scores: [L, N].
            grades: [L, N], >= 0; finite if they are a teacher's scores.
            mask: [L, N] of bool, True for documents; other positions have no effect.
            item_weights: [L, N], weights of the documents.
            pair_weights: [L, N, N], weights of pairs of a better document (first) and a worse one.

        Raises:
            ValueError: if pair weights are given to a loss that is not a sum over pairs.
        """
        if pair_weights is not None and not self.of_pairs:
            raise ValueError(f"the loss {type(self).__name__} is not made of pairs, so it takes no pair_weights")
        return self.per_list(scores, grades, mask, item_weights, pair_weights)

    def at(self, share: float) -> RankingLoss:
        """Return the loss at a share of the training from 0 to 1: itself, if it has no course."""
        return self

    def per_list(self, scores: Tensor, grades: Tensor, mask: Tensor, items: Weights, between: Weights) -> Tensor:
        """Compute the loss of each list with the weights of documents and pairs."""
        raise NotImplementedError

    def relevant_documents(self, grades: Tensor) -> Tensor:
        """Mark the documents whose scores a pointwise loss raises: [L, N] of bool."""
        raise NotImplementedError


def _check(field: Field[Any], value: Any) -> None:
    name, default = field.name, field.default
    if value is None and default is None:
        return
    is_count = isinstance(default, int) or (default is None and "float" not in str(field.type))
    kind: Any = int if is_count else (int, float)
    is_temperature = name.endswith("temperature")
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    number: Any = value
    if not is_number or not (1 if is_count else 0) <= number < inf or (is_temperature and number == 0):
        what = "a whole number of at least 1" if is_count else "a number of at least 0"
        raise ValueError(f"{name} must be {'a number above 0' if is_temperature else what}; got {value!r}")


def better(grades: Tensor, mask: Tensor) -> Tensor:
    """Mark pairs of real documents whose first one has the higher grade: [L, N, N] of bool."""
    return (grades.unsqueeze(2) > grades.unsqueeze(1)) & mask.unsqueeze(2) & mask.unsqueeze(1)


def margins(scores: Tensor) -> Tensor:
    """Subtract the second document's score from the first's: [L, N, N]."""
    return scores.unsqueeze(2) - scores.unsqueeze(1)


def weighted(values: Tensor, pairs: Tensor, item_weights: Tensor | None, pair_weights: Tensor | None) -> Tensor:
    """Multiply [L, N, N] values by the weights of both documents and of the pair; 0 outside `pairs`."""
    if item_weights is not None:
        values = values * item_weights.unsqueeze(2) * item_weights.unsqueeze(1)
    if pair_weights is not None:
        values = values * pair_weights
    return values.masked_fill(~pairs, 0.0)


def mean_over_pairs(
    values: Tensor, pairs: Tensor, item_weights: Tensor | None = None, pair_weights: Tensor | None = None
) -> Tensor:
    """Divide weighted values by the number of pairs, not the sum of weights; 0 without pairs: [L]."""
    total = weighted(values, pairs, item_weights, pair_weights).sum((1, 2))
    return total / pairs.sum((1, 2)).clamp(min=1)


def mean_over_documents(values: Tensor, mask: Tensor, item_weights: Tensor | None = None) -> Tensor:
    """Divide weighted values by the number of documents: [L]."""
    if item_weights is not None:
        values = values * item_weights
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    from torch.nn import functional

    return functional.softplus(x)
