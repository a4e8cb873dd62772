"""The one subclass of trl's SFTTrainer: a batch is one packed row, and the output head runs on answers only.

Without a GPU, trl projects every position of every row. A ranking prompt is ten times longer than its answer, so most
of that work and memory goes to positions without a label. The loss is the same; a test compares both.
"""

# Shape legend: M labelled tokens of a batch.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.sft_trainer import SFTTrainer

from rl_rerank.packed.layout import pack
from rl_rerank.training.loop.label_scores import LabelScores
from rl_rerank.training.loop.rows import IGNORED, TokenisedRow


class RowCollator:
    """Collates batches of rows, given by their `index`, to one packed row each. The labels of a row are its end."""

    def __init__(self, rows: Sequence[TokenisedRow]) -> None:
        self.rows = rows

    def __call__(self, batch: list[dict[str, int]]) -> dict[str, Any]:
        rows = [self.rows[one["index"]] for one in batch]
        firsts = [next(i for i, label in enumerate(row["labels"]) if label != IGNORED) for row in rows]
        packed = pack([(row["input_ids"], first) for row, first in zip(rows, firsts, strict=True)])
        # For the trainer, which counts a step's labels from the second on, as those that have a token before them.
        labels = nn.functional.pad(packed.labels, (1, 0), value=IGNORED)
        found: dict[str, Any] = {"packed": packed, "labels": labels}
        own = [row["weights"][first:] for row, first in zip(rows, firsts, strict=True) if "weights" in row]
        if own:
            found["weights"] = torch.tensor([weight for some in own for weight in some])
        return found


class AnswerTrainer(SFTTrainer):
    """Cross-entropy on labelled tokens, a mean over the tokens of an optimizer step on all processes.

    With `weights`, each token's loss is multiplied by its weight; the mean is still over the number of tokens.
    """

    def __init__(self, *, rows: Sequence[TokenisedRow], pad_id: int, **kwargs: Any) -> None:
        """
        Args:
            rows: the rows whose numbers are the dataset's column `index`.
            pad_id: token id that pads the rows of models that cannot compute packed ones.
        """
        super().__init__(**kwargs)
        # trl has made a collator of its own.
        self.data_collator = RowCollator(rows)
        self.scored = LabelScores(self, [self.model], pad_id)

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
        count = len(each) if num_items_in_batch is None else num_items_in_batch
        loss = each.sum() / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The count is of all processes, and gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        assert labels.is_top1 is not None
        self._metrics["train"]["mean_token_accuracy"].append(labels.is_top1.float().mean().item())
        return (loss, labels) if return_outputs else loss
