"""Division of an optimizer step's rows over processes and micro-batches, with its errors."""

from dataclasses import dataclass
from typing import Literal

from rl_rerank.config import LauncherConfig


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one optimizer step, over all processes.

    Example: `Step(64, "completions", "prompts_per_step=8 x num_generations=8 = 64", group=8)`.
    """

    rows: int
    unit: str
    """Name of the rows: completions, lists, prompts or rows."""
    settings: str
    """The settings that give `rows`, for errors."""
    group: int = 1
    """Rows per prompt, which must be on one process."""
    micro_batch_tokens: int | Literal["auto"] | None = None
    """Token budget of a micro-batch, auto: what fits the memory; None fixes the number of rows instead."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The layout of one optimizer step on the processes."""

    step: Step
    micro_batch: int
    """Rows per forward and backward of a process, at most the stage's `micro_batch`. With a token budget: all rows of
    the process, which are divided once their lengths are known."""
    processes: int

    @property
    def rows(self) -> int:
        """Rows of all processes."""
        return self.step.rows

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes of each process."""
        return self.step.rows // (self.micro_batch * self.processes)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Upper bound of the tokens in one micro-batch."""

    prompts: int
    completions: int = 0
    completion_tokens: int = 0
    """Tokens of the longest completion."""
    note: str = ""
    """Relation of prompts and rows, such as `, 8 documents a list`."""
    is_rare: bool = False
    """Whether few rows come near the bound, as the documents of a list are seldom all at their longest."""

    def total(self, prompt_tokens: int) -> int:
        """Sum them up, with prompts of `prompt_tokens` tokens."""
        return self.prompts * prompt_tokens + self.completions * self.completion_tokens


def layout(name: str, step: Step, micro_batch: int | None, processes: int) -> Batches:
    """Compute the layout of a step of stage `name`.

    Args:
        micro_batch: rows of a micro-batch; None with a token budget.

    Raises:
        ValueError: with the arithmetic, if rows do not divide evenly or a group would be split.
    """
    share = step.rows // processes
    if step.rows % processes or share % step.group:
        units = f"groups of {step.group}" if step.group > 1 else "rows"
        raise ValueError(
            f"stages.{name}: a step of {step.settings} does not give each of {processes} processes the same number of "
            f"whole {units}; change it, or launcher.num_processes"
        )
    if step.micro_batch_tokens is not None:
        return Batches(step, share, processes)
    assert micro_batch is not None
    chosen = min(micro_batch, share)
    if share % chosen:
        raise ValueError(
            f"stages.{name}: a step of {step.settings} gives each of {processes} processes {share} rows, which is not "
            f"a multiple of micro_batch={micro_batch}; change one of them"
        )
    return Batches(step, chosen, processes)


def prompt_order(prompts: int, updates: int, processes: int) -> list[int]:
    """Order the prompts of a batch of completions so that its updates are the same on any number of processes.

    Each process receives a share of the batch, the first rows first, and divides it into `updates` equal parts. In this
    order the parts of update u on all processes are the u-th part of the batch.

    Args:
        prompts: of a batch, a multiple of `updates` x `processes`.
    """
    step = prompts // updates
    share = step // processes
    return [
        update * step + process * share + number
        for process in range(processes)
        for update in range(updates)
        for number in range(share)
    ]


def describe(batches: Batches, launcher: LauncherConfig, tokens: Tokens, row: Tokens, prompt_tokens: int) -> list[str]:
    """Describe the work of each process in a step, one line each.

    Args:
        tokens: of one micro-batch.
        row: of one row.
        prompt_tokens: the budget of a prompt.
    """
    step = batches.step
    groups = _count(batches.micro_batch // step.group, "whole group", "whole groups")
    if (budget := step.micro_batch_tokens) is not None:
        rows = f"{groups} of {step.group}" if step.group > 1 else f"{batches.micro_batch}"
        limit = "as many tokens as fit the memory" if budget == "auto" else f"up to {budget:,} tokens"
        layout = f"{rows} {step.unit} a step, in micro-batches of {limit}"
    else:
        passes = _count(batches.micro_batches, "micro-batch", "micro-batches")
        layout = f"{passes} of {batches.micro_batch} {step.unit} a step"
        layout += f", {groups} in each" if step.group > 1 else ""
    layout += "; every group lies whole on one process" if step.group > 1 else ""
    where = f"each of {batches.processes} processes" if batches.processes > 1 else "1 process"
    sharding = f" ({launcher.strategy})" if launcher.kind == "accelerate" else ""
    total, alone = batches.micro_batches * tokens.total(prompt_tokens), row.total(prompt_tokens)
    each = f" + {tokens.completions} completions x {tokens.completion_tokens}" if tokens.completions else ""
    above = isinstance(budget, int) and alone > budget
    limit = f"a {step.unit.removesuffix('s')} above the budget, of up to {alone:,} tokens, is computed alone"
    return [
        f"{where}{sharding}: {layout}",
        *([limit] if above else []),
        f"at most {total:,} tokens a process a step = {batches.micro_batches} x ({tokens.prompts} prompts x "
        f"{prompt_tokens}{each}){tokens.note}",
    ]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
