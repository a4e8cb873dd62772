"""Reinforcement learning without sampled text: a transformers Trainer around an objective.

An objective makes the batches, reads the policy from one forward, and turns it into a loss;
`scores` and `choice` are the two objectives. The trainer adds the frozen reference, logs, and the completions table.
Batches are drawn by number and samples are seeded by these numbers, so an interrupted run resumes exactly.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate.utils import DistributedType, gather_object
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer
from trl.models.utils import prepare_deepspeed

from rl_rerank.packed.head import Scored
from rl_rerank.training.loop.label_scores import LabelScores


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

    def collate(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """Batch the tasks whose numbers are in `index`; `packed` is the row that the model computes."""
        ...

    label_temperature: float
    """Divides the logits that the labels' log-probabilities are of."""

    def policy(self, labels: Scored, batch: Mapping[str, Any]) -> Tensor:
        """Read the parameters of the policy's distribution, one row per task, from the labels of the batch's packed
        row."""
        ...

    def answer_share(self, labels: Scored, batch: Mapping[str, Any]) -> float:
        """Compute the mean share of the probability, over all tokens, that lies on those that answers begin with; where
        all begin alike, on those with which they part."""
        ...

    def outcome(self, batch: Mapping[str, Any], policy: Tensor, reference: Tensor | None, step: int) -> Outcome:
        """Compute the loss, differentiable with respect to `policy`."""
        ...


class PolicyTrainer(Trainer):
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
        self._values: dict[str, list[float]] = defaultdict(list)
        self._once: dict[str, float] = {}
        self._rows: list[dict[str, Any]] = []
        self._reference: Any = None
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

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        asked = {"packed": inputs["packed"], "temperature": self.objective.label_temperature}
        labels = self.scored(model, **asked)
        policy = self.objective.policy(labels, inputs)
        self._values["answer_share"].append(self.objective.answer_share(labels, inputs))
        reference = None
        if self.objective.beta:
            with torch.no_grad(), self._frozen(model) as frozen:
                reference = self.objective.policy(self.scored(frozen, **asked), inputs)
        found = self.objective.outcome(inputs, policy, reference, self.state.global_step + 1)
        for name, value in found.metrics.items():
            self._values[name].append(value)
        self._rows += found.rows
        return (found.loss, None) if return_outputs else found.loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the means of the objective's metrics over micro-batches and processes since the last call."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        everyone = gather_object([means])
        self.unlogged = gather_object(self._rows)
        # A composed reward may have had a part on some processes only.
        for name in dict.fromkeys(name for one in everyone for name in one):
            found = [one[name] for one in everyone if name in one]
            logs[name] = sum(found) / len(found)
        logs.update(self._once)
        self._values, self._once, self._rows = defaultdict(list), {}, []
        super().log(logs, *args, **kwargs)

    @contextmanager
    def _frozen(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the policy as it was at the start of training."""
        if self._reference is not None:
            yield self._reference
            return
        adapted: Any = self.accelerator.unwrap_model(model)
        with adapted.disable_adapter():
            yield model
