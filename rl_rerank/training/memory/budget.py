"""The token budget that a training stage computes with."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rl_rerank.training.loop.micro_batches import CPU_TOKENS
from rl_rerank.training.memory import estimate

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins
    from rl_rerank.stages.training import TrainingStage

logger = logging.getLogger(__name__)


def tokens(stage: TrainingStage, name: str, plugins: Plugins, start: Path) -> int | None:
    """Find the token budget of a stage's micro-batches; None if they have a fixed number of rows.

    Args:
        name: the stage's name.
        start: the folder of the model that it begins with.

    Raises:
        ValueError: if no micro-batch fits the GPU, or its memory cannot be estimated.
    """
    budget = stage.step().micro_batch_tokens
    if budget != "auto":
        return budget
    if not torch.cuda.is_available():
        return CPU_TOKENS
    place, model = f"stages.{name}.{stage.budget_setting}=auto", replace(plugins.config.model, path=str(start))
    setup = replace(stage.memory(name, plugins, is_cuda=True), model=model)
    try:
        found = estimate.largest(setup, estimate.here())
    except LookupError as e:
        raise ValueError(f"{place}: {e}; give a number of tokens, or stages.{name}.micro_batch") from e
    if not found:
        raise ValueError(f"{place}: {estimate.refusal(setup, estimate.here())}")
    logger.info("micro-batches have up to %s tokens, as many as fit the GPU", f"{found:,}")
    return found
