"""The memory of training stages against a card: `rl-rerank plan`, and a part of the dry run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rl_rerank.experiment.experiment import Experiment
from rl_rerank.stages.training import TrainingStage
from rl_rerank.training.memory.cards import Hardware

if TYPE_CHECKING:
    from rl_rerank.training.memory.estimate import Estimate
    from rl_rerank.training.memory.setup import Setup


@dataclass(frozen=True)
class Planned:
    """A training stage on the hardware."""

    name: str
    lines: tuple[str, ...]
    """Its table."""
    refusal: str | None
    """Why it cannot run there."""
    is_cuda: bool
    """Whether the hardware has GPUs, whose memory is no more than it says."""


def plan(experiment: Experiment, names: Sequence[str], hardware: Hardware | None) -> Iterator[Planned]:
    """Estimate the training stages among `names`.

    Args:
        hardware: None: this machine's.

    Raises:
        ImportError: if a package that the estimate needs is not installed.
    """
    # Imported when it is needed: it takes seconds, and a plan is also shown where torch is not installed.
    estimates: Any = importlib.import_module("rl_rerank.training.memory.estimate")
    card: Hardware = hardware or estimates.here()
    for name in names:
        stage = experiment.stages[name].settings
        if isinstance(stage, TrainingStage):
            yield _planned(estimates, experiment, name, stage, card)


def _planned(estimates: Any, experiment: Experiment, name: str, stage: TrainingStage, hardware: Hardware) -> Planned:
    launcher = experiment.config.launcher
    setup = stage.memory(name, experiment.plugins, is_cuda=hardware.is_cuda)
    try:
        tokens, fitting = setup.largest, estimates.largest(setup, hardware)
        found, reason = estimates.estimate(setup, hardware, tokens), estimates.refusal(setup, hardware)
        if reason is None and not found.fits:  # the longest list, which refuses nothing
            tokens = fitting
            found = estimates.estimate(setup, hardware, tokens)
        source = estimates.architecture.find(setup.model).source
    except LookupError as e:
        return Planned(name, (f"{name}: the memory is not known: {e}",), None, hardware.is_cuda)
    here = launcher.num_processes // launcher.num_machines
    if here > hardware.count and hardware.is_cuda:
        reason = (
            f"launcher.num_processes={launcher.num_processes} are {here} a machine, which has {hardware.count} GPUs"
        )
    head = f"{name}: {setup}; {setup.model.path}, whose shape is from {source}"
    verdict = f"{name} does not fit: {reason}" if reason else f"{name} fits {hardware}"
    return Planned(
        name, (head, *_table(found), _limits(setup, found, tokens, fitting), verdict), reason, hardware.is_cuda
    )


def _table(found: Estimate) -> Iterator[str]:
    """GiB of a process, a column for each moment of a step."""
    moments = list(found.moments)
    parts = dict.fromkeys(part for moment in moments for part in found.moments[moment])
    widths = [max(len(moment), 6) for moment in moments]
    yield _row("GiB a process", moments, widths)
    for part in parts:
        values = [found.moments[moment].get(part) for moment in moments]
        yield _row(part, ["-" if value is None else f"{value:.2f}" for value in values], widths)
    yield _row("total", [f"{found.total(moment):.2f}" for moment in moments], widths)


def _row(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([f"  {name:<20}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))])


def _limits(setup: Setup, found: Estimate, tokens: int, fitting: int) -> str:
    room = f"the largest micro_batch_tokens that fits is {fitting:,}"
    alone = ""
    if tokens < setup.largest:
        alone = f"; the longest list may have {setup.largest:,}, is computed alone and would not fit"
    elif isinstance(setup.budget, int) and setup.tokens > setup.budget:
        alone = f", more than the budget of {setup.budget:,}: what has as many is computed alone"
    return f"  limit: {found.binding}, {found.peak:.1f} of {found.card:.1f} GiB with {tokens:,} tokens{alone}; {room}"
