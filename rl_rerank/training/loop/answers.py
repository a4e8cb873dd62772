"""The one subclass of trl's SFTTrainer: a batch is one packed row, and the output head runs on answers only.

Without a GPU, trl projects every position of every row. A ranking prompt is ten times longer than its answer, so most
of that work and memory goes to positions without a label. The loss is the same; a test compares both.
"""

# Shape legend: M labelled tokens of a batch.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.sft_trainer import SFTTrainer

from rl_rerank.packed.layout import Labelled, pack
from rl_rerank.training.loop.budget_trainer import BudgetTrainer
from rl_rerank.training.loop.collation import Collator
from rl_rerank.training.loop.label_scores import LabelScores
from rl_rerank.training.loop.logged_means import LoggedMeans
from rl_rerank.training.loop.rows import IGNORED, TokenisedRow


@dataclass(frozen=True)
class RowItem:
    """A row. Its labels are its end."""

    sequence: Labelled
    weights: Sequence[float] | None
    """Of the labels."""

    @property
    def sequences(self) -> list[Labelled]:
        return [self.sequence]


class RowCollator(Collator[RowItem]):
    """Collates batches of rows to one packed row each."""

    def __init__(self, rows: Sequence[TokenisedRow]) -> None:
        self.rows = rows

    def item(self, number: int) -> RowItem:
        row = self.rows[number]
        first = next(i for i, label in enumerate(row["labels"]) if label != IGNORED)
        weights = row["weights"][first:] if "weights" in row else None
        return RowItem((row["input_ids"], first), weights)

    def batch(self, items: Sequence[RowItem]) -> dict[str, Any]:
        found: dict[str, Any] = {"packed": pack([item.sequence for item in items])}
        own = [weight for item in items for weight in item.weights or ()]
        return {**found, "weights": torch.tensor(own)} if own else found

    def labels(self, items: Sequence[RowItem]) -> Tensor:
        return torch.tensor([IGNORED, *(token for item in items for token in item.sequence[0][item.sequence[1] :])])


class AnswerTrainer(BudgetTrainer, SFTTrainer):
    """Cross-entropy on labelled tokens, a mean over the tokens of an optimizer step on all processes.

    With `weights`, each token's loss is multiplied by its weight; the mean is still over the number of tokens.
    """

    def __init__(self, *, rows: Sequence[TokenisedRow], pad_id: int, **kwargs: Any) -> None:
        """
        Args:
            rows: the rows whose numbers are the dataset's column `index`.
            pad_id: token id that pads the rows of models that cannot compute packed ones.
        """
        super().__init__(data_collator=RowCollator(rows), **kwargs)
        self.scored = LabelScores(self, [self.model], pad_id)
        self._means = LoggedMeans()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels = self.scored(model, inputs["packed"], with_top1=True)
        each = -labels.log_probs  # [M]
        if "weights" in inputs:
            each = each * inputs["weights"]
        loss = self.mean_over_step(each, num_items_in_batch)
        assert labels.is_top1 is not None
        self._means.add({"mean_token_accuracy": labels.is_top1.float().mean().item()}, len(each))
        return (loss, labels) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the share of tokens that are the likeliest since the last call."""
        logs.update(self._means.take())
        super().log(logs, *args, **kwargs)
