"""A transformers Trainer whose optimizer steps are divided into micro-batches by a token budget."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from rl_rerank.training.loop.checkpoints import WritesAside
from rl_rerank.training.loop.collation import Collator, Rendered
from rl_rerank.training.loop.label_scores import LabelScores
from rl_rerank.training.loop.micro_batches import TokenBudget, accumulate


class BudgetTrainer(WritesAside, Trainer):
    """Trains on batches of `data_collator`, or on micro-batches of up to `micro_batch_tokens` tokens.

    In the latter case a batch has all rows of the process in a step. In a micro-batch, `share` is the share of these
    rows that it has: a mean over rows times `share` adds up to the mean over the step.

    Attributes:
        scored: computes the labels of batches; subclasses set it.
    """

    scored: LabelScores

    def __init__(self, *, data_collator: Collator[Any], micro_batch_tokens: int | None = None, **kwargs: Any) -> None:
        """
        Args:
            micro_batch_tokens: None: a batch is a micro-batch. Otherwise `args` must put all rows of a process and a
                step into one batch.
        """
        super().__init__(**kwargs)
        # The loss is ours, whatever the model's forward takes, so labels are counted over a step where there are any.
        self.model_accepts_loss_kwargs = True
        self.collator = data_collator
        self.micro_batch_tokens = micro_batch_tokens
        # Not given to transformers: trl makes a collator of its own before.
        self.data_collator = data_collator if micro_batch_tokens is None else data_collator.step

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if self.micro_batch_tokens is None:
            return super().training_step(model, inputs, num_items_in_batch)
        rendered: Rendered[Any] = inputs["rendered"]

        def backward(rows: Sequence[int]) -> Tensor:
            part = self.part(rendered, rows)
            return super(BudgetTrainer, self).training_step(model, part, num_items_in_batch)

        return accumulate(self.accelerator, model, self.budget.divided(rendered.units, self.accelerator), backward)

    @property
    def budget(self) -> TokenBudget:
        """The token budget of a micro-batch."""
        assert self.micro_batch_tokens is not None
        return TokenBudget(self.micro_batch_tokens, is_packed=self.scored.refusal is None)

    def part(self, rendered: Rendered[Any], rows: Sequence[int]) -> dict[str, Any]:
        """Batch some rows of a step, by their places."""
        share = len(rows) / len(rendered.items)
        return {**self.collator.batch([rendered.items[row] for row in rows]), "share": share}

    def mean_over_step(self, values: Tensor, count: Tensor | int | None) -> Tensor:
        """Return the summand of a micro-batch in the mean of values [M] over a step's tokens on all processes.

        Args:
            count: transformers' `num_items_in_batch`, with which it does not divide the loss by the number of batches
                of a step; None: of a batch outside of training, the mean over which is returned.
        """
        if count is None:
            return values.mean()
        mean = values.sum() / torch.as_tensor(count).clamp(min=1)
        # The count is of all processes, and gradients are averaged over them.
        return mean * self.accelerator.num_processes if self.args.average_tokens_across_devices else mean
