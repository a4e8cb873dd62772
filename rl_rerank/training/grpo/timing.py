"""Time per phase and token throughput of an optimizer step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

PHASES: tuple[str, ...] = ("rollout", "reward", "old", "ref", "update", "sync")
"""Sampling; judging and scoring; log-probabilities under the policy that sampled and under the reference; forward,
backward and the optimizer; weights to the engine that samples."""


class Phases:
    """Seconds of each phase since they were last taken. A phase inside another counts for itself only."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Within it, or within a function that it decorates, time is the phase's."""
        self.begin(phase)
        try:
            yield
        finally:
            self.end()

    def begin(self, phase: str) -> None:
        """Start a phase; pause the open one."""
        self._count()
        self._open.append(phase)

    def end(self) -> None:
        """End what was begun last."""
        self._count()
        self._open.pop()

    def take(self) -> dict[str, float]:
        """Phase -> seconds, and start again."""
        found, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return found

    def _count(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a kernel belongs to the phase that started it
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now


def num_tokens(prompt_mask: Tensor, completion_mask: Tensor, num_generations: int) -> Tensor:
    """[2]: tokens with every prompt counted once for its group, and once for every completion.

    Args:
        prompt_mask: [B, P], 1 for tokens; the rows of a group are adjacent. completion_mask: [B, C].
    """
    completions = completion_mask.sum()
    return torch.stack([prompt_mask[::num_generations].sum() + completions, prompt_mask.sum() + completions])


def is_reference(model: nn.Module, reference: nn.Module | None) -> bool:
    """Whether a forward of `model` is the reference's: it is that model, or its adapters are switched off for it."""
    if model is reference:
        return True
    layer = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)
    return layer is not None and (layer.disable_adapters or layer.active_adapters == ["ref"])


class PhaseTimes(TrainerCallback):
    """Logs `time/PHASE` in seconds, and `tokens_per_second/unique` and `/raw` of all processes, for every step.

    It has to be the first callback, so that what others do at the end of a step is not counted.

    Args:
        trainer: has `phases`, `num_tokens` and `log_once`.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.phases.begin("update")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.phases.end()
        seconds = self.trainer.phases.take()
        for phase, value in seconds.items():
            self.trainer.log_once(f"time/{phase}", value)
        for name, tokens in zip(("unique", "raw"), self.trainer.num_tokens, strict=True):
            self.trainer.log_once(f"tokens_per_second/{name}", tokens / sum(seconds.values()))
