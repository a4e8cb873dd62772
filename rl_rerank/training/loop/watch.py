"""Watches a training run: applies the rules of `health`, and keeps weights that are not numbers from being used."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from peft import PeftModel
from torch import Tensor, nn
from transformers import LogitsProcessor, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.io.files import write_json
from rl_rerank.training.loop import health
from rl_rerank.training.loop.checkpoints import last_checkpoint
from rl_rerank.training.loop.health import Arithmetic, Finding, HealthConfig

logger = logging.getLogger(__name__)

USUAL_LEARNING_RATE, USUAL_ADAPTER_LEARNING_RATE = 1e-3, 1e-2


class UnhealthyError(ValueError):
    """Raised to stop a run that is broken; says why, and which checkpoint is the last good one."""


def broken_weights(model: nn.Module) -> list[str]:
    """List the weights with values that are not finite, in this process's share of the model."""
    return [name for name, weight in model.named_parameters() if not bool(torch.isfinite(_share(weight)).all())]


def _share(weight: Any) -> Tensor:
    """Return what this process has of a weight: all of it, its shard under ZeRO-3, or that of a DTensor."""
    share = getattr(weight, "ds_tensor", weight).detach()
    return share.to_local() if hasattr(share, "to_local") else share


def describe(names: Sequence[str]) -> str:
    """Describe what `broken_weights` found."""
    return f"{len(names)} weight tensor{'s' * (len(names) > 1)} with values that are not finite, the first {names[0]}"


def require_weights(model: nn.Module, place: str) -> None:
    """Refuse to save weights that are not finite.

    Raises:
        UnhealthyError: with the place.
    """
    if names := broken_weights(model):
        raise UnhealthyError(f"{place} would have {describe(names)}; nothing was saved")


class FiniteLogits(LogitsProcessor):
    """Notes logits that are not numbers, and passes numbers on: sampling from others ends in an error of torch."""

    def __init__(self) -> None:
        self.is_broken: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        # -inf is a mask. Not read here: that would wait for the device at every token.
        bad = (scores.isnan() | scores.isposinf()).any() | scores.isneginf().all(1).any()
        self.is_broken = bad if self.is_broken is None else self.is_broken | bad
        return torch.where(bad, torch.zeros_like(scores), scores)


def require_logits(trainer: Any, seen: FiniteLogits) -> None:
    """Refuse samples from logits that are not numbers.

    Raises:
        UnhealthyError: on every process, if any process saw such logits.
    """
    state, args = trainer.state, trainer.args
    here = seen.is_broken is not None and bool(seen.is_broken)
    if any(gather_object([here])):
        step = state.global_step + 1
        norms = [row["grad_norm"] for row in state.log_history if math.isfinite(row.get("grad_norm") or math.nan)]
        cause = health.cause_of_overflow(
            step, _arithmetic(args, trainer.accelerator.unwrap_model(trainer.model)), norms
        )
        found = Finding("logits", True, step - 1, "the model's logits are not finite, so nothing can be sampled", cause)
        raise UnhealthyError(_stop(args, step, found))


class Watch(TrainerCallback):
    """Stops a broken run with one sentence, or warns of what looks like one.

    It must come after the callback that records rows, so that the last row is recorded, and before the one that
    measures dev queries, so that a broken model is not measured. Warnings are logged once a rule, kept in
    `health.json` in the stage's folder, and shown at the end of the run.

    Args:
        config: limits of the rules; None applies none, and weights must still be finite.
        measured: steps between two evaluations on dev queries.
        documents: see `health.Run`.
    """

    def __init__(self, config: HealthConfig | None, *, measured: int | None = None, documents: int = 1) -> None:
        self.config = config
        self.measured = measured
        self.documents = documents
        self.warned: list[dict[str, Any]] = []
        self.broken: list[str] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        step = state.global_step
        self.warned = [row for row in health.warnings(_folder(args)) if row["step"] <= step]
        if not (names := _everywhere(model)):
            return
        if not step:
            raise UnhealthyError(
                f"stages.{_folder(args).name}: the starting model {model.config._name_or_path} has {describe(names)}; "
                "train from another one"
            )
        good = last_checkpoint(_folder(args) / "checkpoints", before=step)
        then = (
            f"remove it, and the same command goes on from {good}" if good else f"remove {_folder(args)} to start anew"
        )
        raise UnhealthyError(f"{args.output_dir}/checkpoint-{step} cannot be resumed: it has {describe(names)}; {then}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        is_measured = self.measured is not None and (
            state.global_step % self.measured == 0 or state.global_step == state.max_steps
        )
        if control.should_save or is_measured:
            self.broken = _everywhere(model)
        if self.broken and is_measured:
            raise UnhealthyError(_broken_model(args, state, model, self.broken))
        if self.broken:  # stopped when the step's row, which may say more, is recorded
            control.should_save, control.should_log = False, True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        rows = _rows(state)
        if len(rows) == 1 and state.is_world_process_zero:
            logger.info("%s", health.first_step(rows[0]))
        self._judge(args, state, model, may_stop=True)
        if self.broken:
            raise UnhealthyError(_broken_model(args, state, model, self.broken))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if names := _everywhere(model):
            raise UnhealthyError(_broken_model(args, state, model, names))
        if _rows(state):
            self._judge(args, state, model, may_stop=False)

    def _judge(self, args: TrainingArguments, state: TrainerState, model: Any, *, may_stop: bool) -> None:
        limits = self.config or HealthConfig()
        # At its end a short run is judged by all its steps.
        patience = limits.patience if may_stop else min(limits.patience, state.global_step)
        run = health.Run(_rows(state), patience, limits, _arithmetic(args, model), self.documents)
        # The rows of all processes should be the same; they must decide the same, or those that go on would wait for
        # the others.
        shared = [health.examine(run, health.RULES if self.config is not None else (health.not_finite,))]
        broadcast_object_list(shared)
        for finding in shared[0]:
            if finding.stops and may_stop:
                raise UnhealthyError(_stop(args, state.global_step, finding))
            self._warn(args, state, finding)

    def _warn(self, args: TrainingArguments, state: TrainerState, finding: Finding) -> None:
        if any(row["rule"] == finding.rule for row in self.warned):
            return
        sentence = _sentence(args, state.global_step, finding)
        self.warned.append({"step": state.global_step, "rule": finding.rule, "sentence": sentence})
        if state.is_world_process_zero:
            logger.warning("%s", sentence)
            write_json(_folder(args) / health.FILE, self.warned)


def _broken_model(args: TrainingArguments, state: TrainerState, model: Any, names: Sequence[str]) -> str:
    step = state.global_step
    cause = health.cause_of_overflow(step, _arithmetic(args, model))
    return _stop(args, step, Finding("weights", True, step - 1, f"the model has {describe(names)}", cause))


def _everywhere(model: nn.Module) -> list[str]:
    """List the broken weights of all processes; every process must call it."""
    return sorted(set(gather_object(broken_weights(model))))


def _rows(state: TrainerState) -> list[health.Row]:
    """Return the rows of steps among what was logged, of the run before a resumption too."""
    return [row for row in state.log_history if "loss" in row]


def _arithmetic(args: TrainingArguments, model: Any) -> Arithmetic:
    dtypes = {str(weight.dtype).removeprefix("torch.") for weight in model.parameters()}
    dtypes |= {"float16"} if args.fp16 else {"bfloat16"} if args.bf16 else set()
    coarsest = next((name for name in ("float16", "bfloat16") if name in dtypes), "float32")
    usual = USUAL_ADAPTER_LEARNING_RATE if isinstance(model, PeftModel) else USUAL_LEARNING_RATE
    return Arithmetic(coarsest, args.fp16, args.learning_rate, usual)


def _folder(args: TrainingArguments) -> Path:
    """Return the stage's folder, which has its checkpoints in `output_dir`."""
    assert args.output_dir is not None
    return Path(args.output_dir).parent


def _sentence(args: TrainingArguments, step: int, finding: Finding) -> str:
    return f"stages.{_folder(args).name}, step {step}: {finding.what} (likely cause: {finding.cause})"


def _stop(args: TrainingArguments, step: int, finding: Finding) -> str:
    good = last_checkpoint(_folder(args) / "checkpoints", before=finding.healthy)
    kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint from before"
    return f"{_sentence(args, step, finding)}; {kept}"
