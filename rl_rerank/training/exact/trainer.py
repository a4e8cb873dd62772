"""Reinforcement learning without sampled text: a transformers Trainer around an objective.

An objective makes the batches, reads the policy from one forward, and turns it into a loss;
`scores` and `choice` are the two objectives. The trainer adds the frozen reference, logs, and the completions table.
Batches are drawn by number and samples are seeded by these numbers, so an interrupted run resumes exactly.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate.utils import DistributedType, gather_object
from peft import PeftModel
from torch import Tensor, nn
from trl.models.utils import prepare_deepspeed

from rl_rerank.packed.head import Scored
from rl_rerank.packed.layout import Packed, pack
from rl_rerank.training.exact.lists import Share
from rl_rerank.training.loop.budget_trainer import BudgetTrainer
from rl_rerank.training.loop.collation import Collator, Rendered
from rl_rerank.training.loop.label_scores import LabelScores
from rl_rerank.training.loop.logged_means import LoggedMeans


@dataclass(frozen=True)
class Outcome:
    """The result of an objective on one batch."""

    loss: Tensor
    metrics: Mapping[str, float]
    """Means over the batch, to log."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the completions table."""


class Objective(Protocol):
    """A policy with its rewards and its loss."""

    beta: float
    """Weight of the KL to the reference; 0 skips its computation."""

    @property
    def collate(self) -> Collator[Any]:
        """Batches tasks, whose numbers are in `index`."""
        ...

    label_temperature: float
    """Divides the logits that the labels' log-probabilities are of."""

    def policy(self, labels: Scored, batch: Mapping[str, Any]) -> Tensor:
        """Read the parameters of the policy's distribution, one row per task, from the labels of the batch's packed
        row."""
        ...

    def answer_share(self, labels: Scored, batch: Mapping[str, Any]) -> Share:
        """Compute the mean share of the probability, over all tokens, that lies on those that answers begin with; where
        all begin alike, on those with which they part."""
        ...

    def outcome(self, batch: Mapping[str, Any], policy: Tensor, reference: Tensor | None, step: int) -> Outcome:
        """Compute the loss, differentiable with respect to `policy`."""
        ...


class PolicyTrainer(BudgetTrainer):
    """Trains an objective's policy.

    Attributes:
        unlogged: rows for the completions table of the step that is being logged, of all processes.
    """

    def __init__(self, *, objective: Objective, model: Any, pad_id: int, reference: Any = None, **kwargs: Any) -> None:
        """
        Args:
            pad_id: token id that pads the rows of models that cannot compute packed ones.
            reference: a second copy of the starting model, if the objective needs one and `model` has no adapter.
        """
        super().__init__(model=model, data_collator=objective.collate, **kwargs)
        self.objective = objective
        self.unlogged: list[dict[str, Any]] = []
        self._means = LoggedMeans()
        self._once: dict[str, float] = {}
        self._rows: list[dict[str, Any]] = []
        self._reference: Any = None
        self._behind: list[Scored] = []
        models = [self.model] if reference is None else [self.model, reference]
        self.scored = LabelScores(self, models, pad_id)
        if objective.beta and not isinstance(model, PeftModel):
            if reference is None:
                raise ValueError("beta is above 0 and all weights are trained, so a reference model is needed")
            if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
                self._reference = prepare_deepspeed(reference, self.accelerator)
            else:
                self._reference = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def log_once(self, name: str, value: float) -> None:
        """Add a value to the next logged row of metrics."""
        self._once[name] = value

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if self.micro_batch_tokens is not None and self.objective.beta:
            self._behind = self._reference_labels(model, inputs["rendered"])
        return super().training_step(model, inputs, num_items_in_batch)

    def part(self, rendered: Rendered[Any], rows: Sequence[int]) -> dict[str, Any]:
        found = super().part(rendered, rows)
        return {**found, "behind": _Behind(_together([self._behind[row] for row in rows]))} if self._behind else found

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = self.scored(model, inputs["packed"], temperature=self.objective.label_temperature)
        policy = self.objective.policy(labels, inputs)
        share = self.objective.answer_share(labels, inputs)
        self._means.add({"answer_share": share.mean}, share.prompts)
        reference = None
        if self.objective.beta:
            found = inputs["behind"].labels if "behind" in inputs else self._reference_of(model, inputs["packed"])
            reference = self.objective.policy(found, inputs)
        found = self.objective.outcome(inputs, policy, reference, self.state.global_step + 1)
        self._means.add(found.metrics, len(inputs["index"]))
        self._rows += found.rows
        loss = found.loss * inputs.get("share", 1.0)
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the means of the objective's metrics over tasks since the last call."""
        self.unlogged = gather_object(self._rows)
        logs.update({**self._means.take(), **self._once})
        self._once, self._rows = {}, []
        super().log(logs, *args, **kwargs)

    def _reference_labels(self, model: nn.Module, rendered: Rendered[Any]) -> list[Scored]:
        """Compute the reference's labels of each row of a step, in the larger micro-batches of a pass without
        gradients."""
        found: dict[int, Scored] = {}
        for rows in self.budget.without_gradients.divided(rendered.units, self.accelerator):
            own = [rendered.items[row].sequences for row in rows]
            labels = self._reference_of(model, pack([sequence for one in own for sequence in one]))
            assert labels.logits is not None
            counts = [sum(len(ids) - first for ids, first in one) for one in own]
            split = zip(labels.log_probs.split(counts), labels.logits.split(counts), strict=True)
            found |= {
                row: Scored(log_probs, logits=logits) for row, (log_probs, logits) in zip(rows, split, strict=True)
            }
        return [found[row] for row in range(len(rendered.items))]

    def _reference_of(self, model: nn.Module, packed: Packed) -> Scored:
        with torch.no_grad(), self._frozen(model) as frozen:
            return self.scored(frozen, packed, temperature=self.objective.label_temperature)

    @contextmanager
    def _frozen(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the policy as it was at the start of training."""
        if self._reference is not None:
            yield self._reference
            return
        adapted: Any = self.accelerator.unwrap_model(model)
        with adapted.disable_adapter():
            yield model


@dataclass(frozen=True)
class _Behind:
    """The reference's labels of a micro-batch. Not a mapping, whose numbers DeepSpeed's bf16 mode would round."""

    labels: Scored


def _together(found: Sequence[Scored]) -> Scored:
    """Join the labels of rows."""
    log_probs, logits = zip(*((one.log_probs, one.logits) for one in found), strict=True)
    return Scored(torch.cat(log_probs), logits=torch.cat(logits))
