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
"""Sampling; judging and scoring; log-probabilities under the sampling policy and under the reference; forward, backward
and optimizer; weight transfer to the sampling engine."""


class Phases:
    """Seconds per phase since the last `take`. A nested phase is not counted in the outer one."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time of a `with` block or a decorated function for the phase."""
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
        """End the phase that was started last."""
        self._count()
        self._open.pop()

    def take(self) -> dict[str, float]:
        """Take phase -> seconds, and reset."""
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
    """Count tokens with every prompt counted once per group, and once per completion: [2].

    Args:
        prompt_mask: [B, P], 1 for tokens; the rows of a group are adjacent. completion_mask: [B, C].
    """
    completions = completion_mask.sum()
    return torch.stack([prompt_mask[::num_generations].sum() + completions, prompt_mask.sum() + completions])


def is_reference(model: nn.Module, reference: nn.Module | None) -> bool:
    """Whether a forward of `model` is the reference's: it is that model, or its adapters are disabled."""
    if model is reference:
        return True
    layer = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)
    return layer is not None and (layer.disable_adapters or layer.active_adapters == ["ref"])


class PhaseTimes(TrainerCallback):
    """Logs `time/PHASE` in seconds, and `tokens_per_second/unique` and `/raw` of all processes, for every step.

    It must be the first callback, to exclude the work of others at the end of a step.

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
