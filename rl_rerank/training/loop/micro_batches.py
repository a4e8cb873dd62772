"""Division of a step into micro-batches within a token budget, with equally many on every process.

All micro-batches together are one optimizer step, so their contents change nothing but the rounding of sums.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from rl_rerank.packed.layout import Labelled, pack

CPU_TOKENS = 2048
"""Token budget on a CPU, where a larger one computes no faster."""
WITHOUT_GRADIENTS = 2
"""How many times the tokens of a packed row in training one without gradients may have.

It keeps the activations of one layer, where training keeps those of all or, with gradient checkpointing, the inputs of
all layers with the activations of one and their gradients. A test compares the estimates.
"""

P = TypeVar("P")


class Unit(NamedTuple):
    """Rows that stay together, such as the completions of a group."""

    rows: tuple[int, ...]
    tokens: int
    """Tokens in a packed row."""
    sequences: int
    """Rows of the plain path, which computes each sequence by itself."""
    prompt: int
    """Tokens of the longest prompt."""
    longest: int = 0
    """Tokens of the longest completion, which the plain path pads apart from prompts."""

    @staticmethod
    def of(row: int, sequences: Sequence[Labelled]) -> "Unit":
        """Measure the sequences of one row of a batch."""
        inputs = {tuple(ids[:-1]) for ids, _ in sequences}
        return Unit((row,), len(pack(sequences).input_ids), len(inputs), max(map(len, inputs)))


@dataclass(frozen=True)
class TokenBudget:
    """Token budget of one forward of a process, padding included."""

    tokens: int
    is_packed: bool
    """Whether all sequences of a micro-batch are one row without padding, in which what they share occurs once."""
    prompt_cost: float | None = None
    """Tokens of the budget that a token of a prompt takes while its keys and values are kept; None: they are not."""

    @property
    def without_gradients(self) -> "TokenBudget":
        """The budget of a forward without gradients: larger if rows are packed, as the plain path has all logits."""
        if not self.is_packed:
            return self
        cost = None if self.prompt_cost is None else self.prompt_cost * WITHOUT_GRADIENTS
        return TokenBudget(self.tokens * WITHOUT_GRADIENTS, True, cost)

    def used(self, units: Sequence[Unit]) -> int:
        """Count the tokens that a forward of these units computes at most."""
        if self.is_packed:
            return sum(unit.tokens for unit in units)
        width = max(unit.prompt for unit in units) + max(unit.longest for unit in units)
        return sum(unit.sequences for unit in units) * width

    def filled(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Pack units into micro-batches; one above the budget has its own."""
        found: list[list[Unit]] = []
        if self.is_packed:
            # First fit, the largest first: no padding makes units of similar length better company.
            for unit in sorted(units, key=lambda unit: (-unit.tokens, unit.rows)):
                fits = (one for one in found if self.used([*one, unit]) <= self.tokens)
                if (one := next(fits, None)) is None:
                    found.append([unit])
                else:
                    one.append(unit)
            return found
        for unit in sorted(units, key=lambda unit: (unit.prompt, unit.longest, unit.rows)):
            if found and self.used([*found[-1], unit]) <= self.tokens:
                found[-1].append(unit)
            else:
                found.append([unit])
        return found

    def divided(
        self, units: Sequence[Unit], accelerator: Accelerator, idle: Sequence[Unit] = (), alone: Sequence[Unit] = ()
    ) -> list[list[int]]:
        """Divide a process's units into as many micro-batches as every other process has; returns the rows of each.

        Args:
            idle: units that cost almost nothing.
            alone: units that share a micro-batch with idle ones only.
        """
        filled = [*self.filled(units), *([unit] for unit in alone)]
        everywhere = accelerator.gather(torch.tensor([len(filled)], device=accelerator.device))
        assert isinstance(everywhere, Tensor)
        count = max(int(everywhere.max()), 1)
        return [sorted(row for unit in some for row in unit.rows) for some in spread(filled, idle, count)]


def spread(filled: Sequence[Sequence[Unit]], idle: Sequence[Unit], count: int) -> list[list[Unit]]:
    """Spread the filled micro-batches and the `idle` units over exactly `count` micro-batches.

    Idle units cost almost nothing, so missing micro-batches are first made of one idle unit each. Then the
    micro-batches with the most units are halved, and a single unit of several rows is.
    """
    found, rest = [list(units) for units in filled], list(idle)
    while len(found) < count:
        if rest:
            found.append([rest.pop()])
            continue
        largest = max(found, key=lambda units: (len(units), sum(len(unit.rows) for unit in units)))
        if len(largest) == 1:
            [unit] = largest
            half = len(unit.rows) // 2
            largest[:] = [unit._replace(rows=unit.rows[:half]), unit._replace(rows=unit.rows[half:])]
        half = len(largest) // 2
        found.append(largest[half:])
        del largest[half:]
    found[0] += rest
    return found


@contextmanager
def accumulating(accelerator: Accelerator, model: Any) -> Iterator[None]:
    """Keep gradients on their process where possible, for all backwards of an optimizer step but the last."""
    state = accelerator.gradient_state
    state._set_sync_gradients(False)  # what DeepSpeed goes by
    is_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    with nullcontext() if is_deepspeed else accelerator.no_sync(model):
        yield
    state._set_sync_gradients(True)


@contextmanager
def padding(accelerator: Accelerator) -> Iterator[None]:
    """Pad what is gathered from processes to the longest, with NaN: trl gathers shares of clipped tokens by row, and
    takes the least and greatest of those that are numbers."""
    gather: Any = accelerator.gather

    def padded(tensor: Any) -> Any:
        return gather(accelerator.pad_across_processes(tensor, pad_index=math.nan))  # pyright: ignore[reportArgumentType]

    accelerator.gather = padded
    try:
        yield
    finally:
        accelerator.gather = gather


def accumulate(accelerator: Accelerator, model: Any, parts: Sequence[P], backward: Callable[[P], Tensor]) -> Tensor:
    """Accumulate the loss of a step part by part; gradients are synchronised in the last part.

    Args:
        parts: what `backward` receives.
        backward: forward and backward of a part; returns its share of the step's loss.
    """
    loss = torch.zeros((), device=accelerator.device)
    for number, part in enumerate(parts):
        with padding(accelerator), nullcontext() if number == len(parts) - 1 else accumulating(accelerator, model):
            loss = loss + backward(part)
    return loss
