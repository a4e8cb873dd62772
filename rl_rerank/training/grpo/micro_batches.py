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


class Size(NamedTuple):
    """Token counts of a group."""

    prompt: int
    longest: int
    """Tokens of the longest completion."""
    completions: int
    """Tokens of all completions."""


@dataclass(frozen=True)
class TokenBudget:
    """Token budget of one forward of a process, padding included.

    Groups are never split: a group above the budget is a micro-batch by itself.
    """

    tokens: int
    num_generations: int
    is_packed: bool
    """Whether all groups of a micro-batch are one row without padding, with each prompt once."""

    def used(self, sizes: Sequence[Size]) -> int:
        """Count the tokens that a forward of these groups computes at most."""
        if self.is_packed:
            return sum(size.prompt + size.completions for size in sizes)
        return len(sizes) * self.num_generations * (max(s.prompt for s in sizes) + max(s.longest for s in sizes))

    def filled(self, sizes: Sequence[Size], groups: Sequence[int]) -> list[list[int]]:
        """Pack the groups, given by their indices in `sizes`, into micro-batches."""
        found: list[list[int]] = []
        if self.is_packed:
            # First fit, the largest first: no padding makes groups of similar length better company.
            for group in sorted(groups, key=lambda g: (-self.used([sizes[g]]), g)):
                fits = (one for one in found if self.used([sizes[g] for g in (*one, group)]) <= self.tokens)
                if (one := next(fits, None)) is None:
                    found.append([group])
                else:
                    one.append(group)
            return found
        for group in sorted(groups, key=lambda g: sizes[g]):
            if found and self.used([sizes[g] for g in (*found[-1], group)]) <= self.tokens:
                found[-1].append(group)
            else:
                found.append([group])
        return found


def spread(filled: list[list[int]], idle: Sequence[int], count: int) -> list[list[int]]:
    """Spread the filled and the `idle` groups over exactly `count` micro-batches.

    Idle groups cost almost nothing, so missing micro-batches are first made of one idle group each. Then the
    micro-batches with the most groups are halved. There are at least `count` groups, so none stays empty.
    """
    found, rest = [list(groups) for groups in filled], list(idle)
    while len(found) < count:
        if rest:
            found.append([rest.pop()])
        else:
            largest = max(found, key=len)
            half = len(largest) // 2
            found.append(largest[half:])
            del largest[half:]
    found[0] += rest
    return found


def rows(
    attention_mask: Tensor, length: int, budget: TokenBudget, accelerator: Accelerator, teaches: Tensor | None = None
) -> list[Tensor]:
    """Assign this process's rows to micro-batches; every process has equally many.

    Args:
        attention_mask: [B, L], of prompts and completions; the rows of a group are adjacent.
        length: number of completion columns.
        teaches: [N] of bool, False for groups to skip; None computes all.

    Returns:
        Row numbers of each micro-batch, in whole groups.
    """
    size = budget.num_generations
    prompts = attention_mask[::size, :-length].sum(1).tolist()
    completions = attention_mask[:, -length:].sum(1).view(-1, size)  # [N, G]
    totals = zip(prompts, completions.amax(1).clamp(min=1).tolist(), completions.sum(1).tolist(), strict=True)
    sizes = [Size(*counts) for counts in totals]
    numbers = range(len(sizes))
    computed = [g for g in numbers if teaches is None or bool(teaches[g])]
    filled = budget.filled(sizes, computed)
    needed = torch.tensor([len(filled)], device=accelerator.device)
    everywhere = accelerator.gather(needed)
    assert isinstance(everywhere, Tensor)
    count = max(int(everywhere.max()), 1)
    groups = spread(filled, [g for g in numbers if g not in set(computed)], count)
    within = torch.arange(size, device=attention_mask.device)
    return [
        (torch.tensor(sorted(found), device=attention_mask.device)[:, None] * size + within).flatten()
        for found in groups
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
