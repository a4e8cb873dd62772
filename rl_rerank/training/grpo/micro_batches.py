"""Division of a step's groups into micro-batches within a token budget, with equally many on every process.

All micro-batches together are one optimizer step, so the order of groups changes nothing but the rounding of sums.
"""

# Shape legend: B completions, N groups (B = N*G), G completions of a group, L tokens of prompt and completion.

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor


class Unit(NamedTuple):
    """Rows of one group that stay together: all of it, unless it is above the budget."""

    rows: tuple[int, ...]
    prompt: int
    """Tokens of the prompt."""
    longest: int
    """Tokens of the longest completion."""
    completions: int
    """Tokens of all completions."""


@dataclass(frozen=True)
class TokenBudget:
    """Token budget of one forward of a process, padding included."""

    tokens: int
    is_packed: bool
    """Whether all rows of a micro-batch are one without padding, in which a prompt occurs once."""

    def used(self, units: Sequence[Unit]) -> int:
        """Count the tokens that a forward of these rows computes at most."""
        if self.is_packed:
            return sum(unit.prompt + unit.completions for unit in units)
        width = max(unit.prompt for unit in units) + max(unit.longest for unit in units)
        return sum(len(unit.rows) for unit in units) * width

    def units(self, group: Sequence[int], prompt: int, completions: Sequence[int]) -> list[Unit]:
        """Divide a group above the budget into units within it; a completion above it is a unit by itself.

        The loss is a sum over completions, so this is exact. Every unit computes the prompt again.

        Args:
            group: its rows. completions: the tokens of each.
        """
        found: list[list[int]] = [[]]
        for place in range(len(group)):
            if found[-1] and self.used([_unit(group, prompt, completions, [*found[-1], place])]) > self.tokens:
                found.append([])
            found[-1].append(place)
        return [_unit(group, prompt, completions, places) for places in found]

    def filled(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Pack units into micro-batches."""
        found: list[list[Unit]] = []
        if self.is_packed:
            # First fit, the largest first: no padding makes units of similar length better company.
            for unit in sorted(units, key=lambda unit: (-self.used([unit]), unit.rows)):
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


def _unit(group: Sequence[int], prompt: int, completions: Sequence[int], places: Sequence[int]) -> Unit:
    own = [completions[place] for place in places]
    return Unit(tuple(group[place] for place in places), prompt, max(*own, 1), sum(own))


def spread(filled: list[list[Unit]], idle: Sequence[Unit], count: int) -> list[list[Unit]]:
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


def rows(
    attention_mask: Tensor,
    length: int,
    num_generations: int,
    budget: TokenBudget,
    accelerator: Accelerator,
    teaches: Tensor | None = None,
) -> list[Tensor]:
    """Assign this process's rows to micro-batches; every process has equally many.

    Args:
        attention_mask: [B, L], of prompts and completions; the rows of a group are adjacent.
        length: number of completion columns.
        teaches: [N] of bool, False for groups to skip; None computes all.

    Returns:
        Row numbers of each micro-batch.
    """
    prompts = attention_mask[::num_generations, :-length].sum(1).tolist()
    completions = attention_mask[:, -length:].sum(1).view(-1, num_generations).tolist()  # [N, G]
    computed: list[Unit] = []
    idle: list[Unit] = []
    for number, (prompt, own) in enumerate(zip(prompts, completions, strict=True)):
        group = range(number * num_generations, (number + 1) * num_generations)
        if teaches is None or bool(teaches[number]):
            computed += budget.units(group, prompt, own)
        else:
            idle.append(_unit(group, prompt, own, range(num_generations)))
    filled = budget.filled(computed)
    needed = torch.tensor([len(filled)], device=accelerator.device)
    everywhere = accelerator.gather(needed)
    assert isinstance(everywhere, Tensor)
    count = max(int(everywhere.max()), 1)
    return [
        torch.tensor(sorted(row for unit in units for row in unit.rows), device=attention_mask.device)
        for units in spread(filled, idle, count)
    ]


def check_means(trainer: Any) -> None:
    """Refuse terms of a loss that are means over a micro-batch, where these differ in size.

    Raises:
        ValueError: if our trl.GRPOTrainer has such a term.
    """
    if trainer._entropy_bonus_enabled or trainer.aux_loss_enabled:
        raise ValueError(
            "micro_batch_tokens makes micro-batches of different sizes, and an entropy bonus or an auxiliary loss "
            "is a mean over one; set micro_batch instead, or leave out trl.entropy_coef"
        )


@contextmanager
def accumulating(accelerator: Accelerator, model: Any) -> Iterator[None]:
    """Keep gradients on their process where possible, for all backwards of an optimizer step but the last."""
    state = accelerator.gradient_state
    state._set_sync_gradients(False)  # what DeepSpeed goes by
    is_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    with nullcontext() if is_deepspeed else accelerator.no_sync(model):
        yield
    state._set_sync_gradients(True)


def accumulate(
    accelerator: Accelerator,
    model: Any,
    batch: Mapping[str, Any],
    parts: Sequence[Tensor],
    backward: Callable[[dict[str, Any], float], Tensor],
) -> Tensor:
    """Accumulate the loss of a batch part by part; gradients are synchronised in the last part.

    Args:
        parts: the rows of each part.
        backward: forward and backward of a part, given its share of the batch's rows; returns its loss.
    """
    count = len(batch["completion_mask"])
    loss = torch.zeros((), device=batch["completion_mask"].device)
    for number, rows in enumerate(parts):
        part = {k: v[rows] if v.dim() and len(v) == count else v for k, v in batch.items()}
        is_last = number == len(parts) - 1
        with nullcontext() if is_last else accumulating(accelerator, model):
            loss = loss + backward(part, len(rows) / count)
    return loss
