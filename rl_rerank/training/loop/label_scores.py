"""Logits and log-probabilities of labelled tokens for trainers that sample nothing: by a packed row, or plainly where
a model cannot.

On the first batch both ways are compared; where they differ the plain one is taken from then on. Checkpoints hold the
way that is taken, because a resumed run would compare on another batch.
"""

# Shape legend: M labels.

from __future__ import annotations

import json
import logging
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.io.files import write_json
from rl_rerank.packed import forward
from rl_rerank.packed.head import Scored
from rl_rerank.packed.layout import Packed
from rl_rerank.training.loop import precision
from rl_rerank.training.loop.checkpoints import checkpoint_of, written_checkpoint

logger = logging.getLogger(__name__)

STATE = "packed_rows.json"
"""In a checkpoint: the way that is taken."""

SEQUENCES = 8
"""Sequences of the first batch that are compared."""


class LabelScores(TrainerCallback):
    """Logits and log-probabilities of a batch's labels.

    Attributes:
        refusal: why rows are not packed; None where they are.
    """

    def __init__(self, trainer: Trainer, models: list[Any], pad_id: int) -> None:
        """
        Args:
            trainer: whose checkpoints hold the way that is taken.
            models: all that it will compute, unwrapped; the first one's attention is the others' too.
        """
        self.accelerator: Accelerator = trainer.accelerator
        trainer.add_callback(self)
        self.pad_id = pad_id
        self._is_verified = False
        self.refusal = forward.refusal(models[0])
        if self.refusal is not None:
            logger.warning("rows are not packed, so what they share is computed once a row: %s", self.refusal)
            return
        for model in models:
            forward.install(model)

    def __call__(self, model: Any, packed: Packed, *, temperature: float = 1.0, with_top1: bool = False) -> Scored:
        """Compute both, [M] in float32, in the order in which sequences were packed."""
        asked: dict[str, Any] = {"temperature": temperature, "with_top1": with_top1}
        if self.refusal is None and not self._is_verified:
            self._verify(model, packed)
        if self.refusal is not None:
            return forward.plainly_scored(model, packed.sequences, pad_id=self.pad_id, **asked)
        return forward.scored(model, packed.to(self.accelerator.device), with_logits=True, **asked)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            found = {"verified": self._is_verified, "refusal": self.refusal}
            write_json(written_checkpoint(args, state) / STATE, found)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            path = checkpoint_of(args, state) / STATE
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} is missing: the checkpoint is of an earlier version, which did not keep whether rows are "
                    "packed; remove the stage's folder to train anew"
                )
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["verified"]:
                self._is_verified, self.refusal = True, found["refusal"]

    def _verify(self, model: Any, packed: Packed) -> None:
        """Compare both ways on some sequences of every process."""
        self._is_verified = True
        some = packed.sequences[:SEQUENCES]
        was_training = model.training
        model.eval()
        with torch.no_grad():
            packed = forward.pack(some).to(self.accelerator.device)
            plain = forward.plainly_scored(model, some, pad_id=self.pad_id).log_probs
            gap = (forward.scored(model, packed).log_probs - plain).abs().mean()
        model.train(was_training)
        self.refusal = disagreement(self.accelerator, model, gap)


def disagreement(accelerator: Accelerator, model: Any, gap: Tensor) -> str | None:
    """Say why a packed row is not used if, on any process, its mean gap [] to separate rows is too large."""
    everywhere = accelerator.gather(gap.reshape(1))
    assert isinstance(everywhere, Tensor)
    largest = everywhere.max().item()
    allowed = forward.GAP_FLOAT32 if precision.computes_in_float32(accelerator, model) else forward.GAP_REDUCED
    if largest <= allowed:
        logger.info("packed rows give the log-probabilities of separate rows (%.1e nats apart)", largest)
        return None
    refusal = (
        f"on the first batch the log-probabilities were {largest:.2g} nats apart from those of separate rows, more "
        f"than {allowed}"
    )
    logger.warning("rows are not packed, so what they share is computed once a row: %s", refusal)
    return refusal
