"""Collation of rows that are rendered one by one and packed together: as a batch, or as a step to be divided."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from rl_rerank.packed.layout import Labelled
from rl_rerank.training.loop.micro_batches import Unit


class Item(Protocol):
    """A rendered row."""

    @property
    def sequences(self) -> Sequence[Labelled]:
        """What the model computes for it."""
        ...


T = TypeVar("T", bound=Item)


class Collator(ABC, Generic[T]):
    """Collates rows of a dataset, given by their `index`, to a batch."""

    @abstractmethod
    def item(self, number: int) -> T:
        """Render a row."""

    @abstractmethod
    def batch(self, items: Sequence[T]) -> dict[str, Any]:
        """Batch rendered rows; `packed` is the row that the model computes."""

    def labels(self, items: Sequence[T]) -> Tensor | None:
        """What transformers counts the learned tokens of a step by, from the second on; None where it need not."""
        return None

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        items = [self.item(row["index"]) for row in rows]
        return {**self.batch(items), **self._counted(items)}

    def step(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """Render the rows of a process in an optimizer step, for `BudgetTrainer` to divide."""
        items = [self.item(row["index"]) for row in rows]
        units = [Unit.of(place, item.sequences) for place, item in enumerate(items)]
        return {"rendered": Rendered(items, units), **self._counted(items)}

    def _counted(self, items: Sequence[T]) -> dict[str, Tensor]:
        labels = self.labels(items)
        return {} if labels is None else {"labels": labels}


@dataclass(frozen=True)
class Rendered(Generic[T]):
    """The rendered rows of a process in an optimizer step."""

    items: Sequence[T]
    units: Sequence[Unit]
