"""The one subclass of trl's SFTTrainer: the output head runs on answers only.

Without a GPU, trl projects every position of every row. A ranking prompt is ten times longer than its answer, so most
of that work and memory goes to positions without a label. The loss is the same; a test compares both.
"""

# Shape legend: B rows, L tokens, K columns that hold a label in any row, V vocabulary.

from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from rl_rerank.training.loop.rows import IGNORED


class WeightedCollator(DataCollatorForLanguageModeling):
    """trl's collator, which also batches the rows' `weights`."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call([{k: v for k, v in row.items() if k != "weights"} for row in examples])
        weights = [torch.tensor(row["weights"]) for row in examples]
        batch["weights"] = nn.utils.rnn.pad_sequence(weights, batch_first=True)
        return batch


class AnswerTrainer(SFTTrainer):
    """Cross-entropy on labelled tokens, a mean over the tokens of an optimizer step on all processes.

    With `weights`, each token's loss is multiplied by its weight; the mean is still over the number of tokens.
    """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels = inputs["labels"][:, 1:]  # [B, L-1], the label of each position's next token
        columns = (labels != IGNORED).any(dim=0).nonzero().squeeze(1)  # [K]
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=columns,
            use_cache=False,
        )
        targets = labels[:, columns]
        is_label = targets != IGNORED
        each = nn.functional.cross_entropy(
            outputs.logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        if "weights" in inputs:
            each = each * inputs["weights"][:, 1:][:, columns].flatten()
        total = each.sum()
        loss = total / torch.as_tensor(is_label.sum() if num_items_in_batch is None else num_items_in_batch).clamp(
            min=1
        )
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The count is of all processes, and gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        right = (outputs.logits.argmax(-1) == targets)[is_label]
        self._metrics["train"]["mean_token_accuracy"].append(right.float().mean().item())
        return (loss, outputs) if return_outputs else loss
