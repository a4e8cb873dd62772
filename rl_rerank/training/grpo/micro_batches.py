"""The micro-batches of a step of completions: groups, whole or divided, within a token budget."""

# Shape legend: B completions, G completions of a group, L tokens of prompt and completion.

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from rl_rerank.packed import prefix
from rl_rerank.packed.prefix import Prefix
from rl_rerank.training.loop.micro_batches import TokenBudget, Unit

WHOLE_WEIGHTS = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.DEEPSPEED,
}
"""Ways of training whose processes may differ in their forwards; ZeRO-3 may not, see `prefix.refusal`."""


class Part(NamedTuple):
    """A micro-batch."""

    rows: Tensor
    """Row numbers."""
    prefix: Prefix | None = None
    """The prompt of a group that consecutive micro-batches continue; None: the micro-batch computes its prompts."""


def budget(trainer: Any, with_gradients: bool) -> TokenBudget:
    """Build the budget of a RankingGRPOTrainer; prompts are kept where the strategy and all models allow it."""
    accelerator, is_packed = trainer.accelerator, trainer.log_probs.refusal is None
    models = [trainer.model] if trainer.teacher is None else [trainer.model, trainer.teacher.model]
    models = [accelerator.unwrap_model(model) for model in models]
    is_whole = accelerator.distributed_type in WHOLE_WEIGHTS
    keeps = is_packed and is_whole and not any(map(prefix.refusal, models))
    found = TokenBudget(trainer.micro_batch_tokens, is_packed, max(map(prefix.cost, models)) if keeps else None)
    return found if with_gradients else found.without_gradients


def divide(budget: TokenBudget, group: Sequence[int], prompt: int, completions: Sequence[int]) -> list[Unit]:
    """Divide a group above the budget into units within it; a completion above it is a unit by itself.

    The loss is a sum over completions, so this is exact. Every unit computes the prompt again; see `pieces`.

    Args:
        group: its rows. prompt: the tokens of its prompt. completions: the tokens of each completion.
    """
    found: list[list[int]] = [[]]
    for place in range(len(group)):
        if found[-1] and budget.used([_unit(group, prompt, completions, [*found[-1], place])]) > budget.tokens:
            found.append([])
        found[-1].append(place)
    return [_unit(group, prompt, completions, places) for places in found]


def pieces(
    budget: TokenBudget, group: Sequence[int], prompt: int, completions: Sequence[int]
) -> tuple[list[Unit], list[Unit]]:
    """Divide a group into units that compute its prompt and units that continue it, whose keys and values are kept.

    The budget of the latter is what the kept prompt leaves of it. They read the prompt's last token and completions, so
    m of them with n units of the former compute a prompt of P tokens (n + 1) P - 1 + m tokens. They are at least two,
    and fewer tokens are computed than by `divide`; else there are none, as there are none where prompts are not kept. A
    completion that does not fit into their budget is in one of the former.

    Args:
        As those of `divide`.
    """
    whole = divide(budget, group, prompt, completions)
    if budget.prompt_cost is None or len(whole) == 1:
        return whole, []
    left = budget.tokens - math.ceil(budget.prompt_cost * (prompt - 1))

    def some(fits: bool, tokens: int, prompt: int) -> list[Unit]:
        rows = [(row, own) for row, own in zip(group, completions, strict=True) if (1 + own <= left) == fits]
        chosen = [row for row, _ in rows], prompt, [own for _, own in rows]
        return divide(replace(budget, tokens=tokens), *chosen) if rows else []

    others, found = some(False, budget.tokens, prompt), some(True, left, 1)
    computed = prompt - 1 + sum(unit.tokens for unit in (*others, *found))
    is_less = computed < sum(unit.tokens for unit in whole)
    return (others, found) if is_less and len(found) > 1 else (whole, [])


def _unit(group: Sequence[int], prompt: int, completions: Sequence[int], places: Sequence[int]) -> Unit:
    own = [completions[place] for place in places]
    return Unit(tuple(group[place] for place in places), prompt + sum(own), len(own), prompt, max(*own, 1))


def rows(
    attention_mask: Tensor,
    length: int,
    num_generations: int,
    budget: TokenBudget,
    accelerator: Accelerator,
    teaches: Tensor | None = None,
) -> list[Part]:
    """Assign this process's rows to micro-batches; every process has equally many.

    Args:
        attention_mask: [B, L], of prompts and completions; the rows of a group are adjacent.
        length: number of completion columns.
        teaches: [B] of bool, False for rows to skip; None computes all.

    Returns:
        The micro-batches that continue the same prompt stand one behind the other.
    """
    prompts = attention_mask[::num_generations, :-length].sum(1).tolist()
    completions = attention_mask[:, -length:].sum(1).view(-1, num_generations).tolist()  # [N, G]
    computed: list[Unit] = []
    idle: list[Unit] = []
    continuing: list[Unit] = []
    is_idle = [False] * len(attention_mask) if teaches is None else (~teaches).tolist()
    for number, (prompt, own) in enumerate(zip(prompts, completions, strict=True)):
        group = range(number * num_generations, (number + 1) * num_generations)
        skipped = [place for place, row in enumerate(group) if is_idle[row]]
        kept = [place for place, row in enumerate(group) if not is_idle[row]]
        if skipped:
            idle.append(_unit(group, prompt, own, skipped))
        if kept:
            units, behind = pieces(budget, [group[place] for place in kept], prompt, [own[place] for place in kept])
            computed += units
            continuing += behind
    groups = {row: row // num_generations for unit in continuing for row in unit.rows}
    divided = budget.divided(computed, accelerator, idle, continuing)
    return _parts(divided, groups, attention_mask.device)


def _parts(divided: Sequence[list[int]], groups: dict[int, int], device: torch.device) -> list[Part]:
    """Give micro-batches their prefixes.

    Args:
        groups: row -> number of its group, for the rows that continue a prompt.
    """
    found = [(next((groups[row] for row in rows if row in groups), -1), rows) for rows in divided]
    counts = Counter(group for group, _ in found)
    prefixes = {group: Prefix(count) for group, count in counts.items() if group >= 0}
    ordered = sorted(found, key=lambda part: part[0])
    return [Part(torch.tensor(rows, device=device), prefixes.get(group)) for group, rows in ordered]


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
