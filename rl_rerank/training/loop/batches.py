"""How the rows of an optimizer step lie on processes and micro-batches: the arithmetic, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rl_rerank.config import Config, GRPOStage, SFTStage, TrainingStage
from rl_rerank.paradigms.base import Paradigm, list_scores, prompts_per_query
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.reward.base import Term


@dataclass(frozen=True, slots=True)
class Batches:
    """One optimizer step of a training stage."""

    rows: int
    """Completions, lists or prompts (grpo), answers or lists (sft) of all processes."""
    group: int
    """Rows that answer one prompt and have to lie on one process; 1 for sft."""
    micro_batch: int
    """Rows of one forward and backward of a process: at most the stage's micro_batch. By a budget of tokens all rows of
    the process, which are divided when their lengths are known."""
    processes: int

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes of each process."""
        return self.rows // (self.micro_batch * self.processes)


def batches(config: Config, name: str, stage: TrainingStage, processes: int | None = None) -> Batches:
    """The layout of a step of stage `name`.

    Args:
        processes: how many there are; None: as many as the launcher is told to start.

    Raises:
        ValueError: with the arithmetic, where rows do not divide evenly or a group would be split.
    """
    rows, group, what = stage.micro_batch, 1, ""
    if isinstance(stage, SFTStage):
        rows, what = stage.batch_size, f"batch_size={stage.batch_size}"
    elif isinstance(stage, GRPOStage) and stage.policy != "tokens":
        rows, what = stage.prompts_per_step, f"prompts_per_step={stage.prompts_per_step}"
    elif isinstance(stage, GRPOStage):
        rows, group = stage.prompts_per_step * stage.num_generations, stage.num_generations
        what = f"prompts_per_step={stage.prompts_per_step} x num_generations={group} = {rows}"
    processes = processes or config.launcher.num_processes
    share = rows // processes
    if rows % processes or share % group:
        units = f"groups of {group}" if group > 1 else "rows"
        raise ValueError(
            f"stages.{name}: a step of {what} does not give each of {processes} processes the same number of whole "
            f"{units}; change it, or launcher.num_processes"
        )
    by_tokens = isinstance(stage, GRPOStage) and stage.micro_batch_tokens is not None
    micro_batch = share if by_tokens else min(stage.micro_batch, share)
    if share % micro_batch:
        raise ValueError(
            f"stages.{name}: a step of {what} gives each of {processes} processes {share} rows, which is not a "
            f"multiple of micro_batch={stage.micro_batch}; change one of them"
        )
    return Batches(rows, group, micro_batch, processes)


def whole_queries(name: str, stage: GRPOStage, terms: Sequence[Term], paradigm: Paradigm) -> int | None:
    """How many prompts of a query have to stand in one step: None where no reward compares them.

    Processes may share a query's prompts: its completions are put together before they are scored.

    Raises:
        ValueError: with the arithmetic, if a step would end within a query; or if completions are compared where none
            are sampled.
    """
    comparing = [term.name for term in terms if term.needs_query]
    if comparing and stage.policy == "choice":
        raise ValueError(
            f"stages.{name}: the reward {comparing[0]!r} compares all completions of a query, and policy=choice weighs "
            "the answers to each prompt by themselves; use policy=tokens"
        )
    if not comparing or stage.policy == "scores":  # a list is a query's only prompt
        return None
    prompts, step = prompts_per_query(paradigm), stage.prompts_per_step
    if step % prompts:
        whole, rest = divmod(step, prompts)
        raise ValueError(
            f"stages.{name}: the reward {comparing[0]!r} compares all completions of a query, and the paradigm "
            f"{paradigm.name} asks {prompts} prompts about one: prompts_per_step={step} = {whole} x {prompts} + {rest} "
            f"would split a query; use a multiple of {prompts}, such as {(whole + 1) * prompts}"
        )
    if stage.refill_rounds and prompts > 1:
        raise ValueError(
            f"stages.{name}: the reward {comparing[0]!r} compares all completions of a query, and the paradigm "
            f"{paradigm.name} asks {prompts} prompts about one, so refill_rounds={stage.refill_rounds} would replace a "
            "part of a query; set refill_rounds=0"
        )
    return prompts


def describe(config: Config, name: str, stage: TrainingStage, *, completion_tokens: int) -> list[str]:
    """What each process does in a step, a line each.

    Args:
        completion_tokens: the longest completion.
    """
    step = batches(config, name, stage)
    what = "rows"
    if isinstance(stage, GRPOStage):
        what = {"tokens": "completions", "scores": "lists", "choice": "prompts"}[stage.policy]
    elif isinstance(stage, SFTStage) and stage.is_ranking:
        what = "lists"
    layout = f"{_count(step.micro_batches, 'micro-batch', 'micro-batches')} of {step.micro_batch} {what} a step"
    if isinstance(stage, GRPOStage) and stage.policy == "tokens":
        groups = _count(step.micro_batch // step.group, "whole group", "whole groups")
        layout += f", {groups} in each; every group lies whole on one process"
        if stage.micro_batch_tokens is not None:
            filled = f"micro-batches of up to {stage.micro_batch_tokens:,} tokens"
            layout = f"{groups} of {step.group} completions a step, in {filled}; every group lies whole on one process"
    where = f"each of {step.processes} processes" if step.processes > 1 else "1 process"
    sharding = f" ({config.launcher.strategy})" if config.launcher.kind == "accelerate" else ""
    return [f"{where}{sharding}: {layout}", _tokens(config, stage, step, completion_tokens)]


def _tokens(config: Config, stage: TrainingStage, step: Batches, completion_tokens: int) -> str:
    """An upper bound: every prompt at its budget, every completion at its limit."""
    prompt = config.model.max_prompt_tokens
    prompts = completions = step.micro_batch
    how = ""
    if isinstance(stage, GRPOStage) and stage.policy == "tokens":
        prompts = step.micro_batch // step.group if stage.shared_prefix else step.micro_batch
        how = f", a prompt computed once for its {'group' if stage.shared_prefix else 'completion'}"
    elif isinstance(stage, GRPOStage) and stage.policy == "choice":
        completions = 0
        how = " for each token at which answers part, which mostly is one"
    elif isinstance(stage, GRPOStage) or (isinstance(stage, SFTStage) and stage.is_ranking):
        shown = stage.list_size or config.data.depth
        paradigm = build_paradigm(config, config.paradigm)
        if list_scores(paradigm) == "documents":
            prompts = step.micro_batch * shown
        else:
            shown = min(shown, len(paradigm.continuations))
        how = f", {shown} documents a list"
        completions = prompts if isinstance(stage, SFTStage) and stage.answer_weight else 0
    total = step.micro_batches * (prompts * prompt + completions * completion_tokens)
    each = f" + {completions} completions x {completion_tokens}" if completions else ""
    return (
        f"at most {total:,} tokens a process a step = {step.micro_batches} x ({prompts} prompts x {prompt}{each}){how}"
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
