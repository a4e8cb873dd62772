"""Records of a training run: metrics per step, completions, and checkpoints marked as complete."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wandb
from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.engines.local.checkpoint import COMPLETE
from rl_rerank.io import rotated
from rl_rerank.io.files import write_text
from rl_rerank.training.loop.table import MEASURE, drawn

TABLES = 100
"""Steps whose completions the tracker has as tables, about, at equal distances."""


def layout(accelerator: Accelerator) -> str:
    """Describe the sharding of a checkpoint's states: only the same sharding over as many processes can load it.

    Without sharding the number of processes may change between a kill and the resumption.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return "unsharded"
    plugin = accelerator.state.deepspeed_plugin
    assert plugin is not None
    return f"zero{plugin.zero_stage} over {accelerator.num_processes} processes"


def checkpoint_of(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the current step's checkpoint."""
    assert args.output_dir is not None
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def resumable_checkpoint(checkpoints: Path, accelerator: Accelerator) -> str | None:
    """Find the newest complete checkpoint, and delete incomplete ones.

    Raises:
        ValueError: if its layout is not that of this run.
    """
    whole: list[tuple[int, Path]] = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / COMPLETE).exists():
            whole.append((_step(folder), folder))
        elif accelerator.is_main_process:
            shutil.rmtree(folder)
    if not whole:
        return None
    newest = max(whole)[1]
    if (found := (newest / COMPLETE).read_text(encoding="utf-8")) != layout(accelerator):
        raise ValueError(
            f"{newest} was written {found}, and this run is {layout(accelerator)}, which cannot read it; start it with "
            f"the same launcher.strategy and launcher.num_processes, or remove {checkpoints.parent} to redo the stage"
        )
    return str(newest)


class Records(TrainerCallback):
    """Appends each step to metrics.jsonl, and completions of it to completions.jsonl.

    Args:
        completions: returns the rows of the completions that no earlier step has logged.
        most: completions of a step that are recorded, as `table.drawn` says.
    """

    def __init__(
        self, folder: Path, completions: Callable[[], list[dict[str, Any]]] | None = None, *, most: int = 64
    ) -> None:
        self.metrics = folder / "metrics.jsonl"
        self.completions_file = folder / "completions.jsonl"
        self.completions = completions
        self.most = most

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            for path in (self.metrics, self.completions_file):
                rotated.cut(path, lambda row: row["step"] <= state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        row = {"step": state.global_step, **{_name(k): v for k, v in logs.items() if isinstance(v, (int, float))}}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if self.completions is not None and (rows := drawn(self.completions(), self.most)):
            rotated.append(self.completions_file, rows, state.global_step)
            if state.global_step % max(state.max_steps // TABLES, 1) == 0:
                _log_table(rows, state.global_step)


class Checkpoints(TrainerCallback):
    """Marks checkpoints as complete, and deletes old ones behind the mark.

    It must be the last callback: others add their parts to a checkpoint, or ask for one at a step's end.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.limit: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # transformers deletes old checkpoints before the new one is marked, so a kill in between could leave none.
        self.limit, args.save_total_limit = args.save_total_limit or self.limit, None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_save:  # what is not logged yet would be missing from the row that a resumed run logs next
            control.should_log = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.accelerator.wait_for_everyone()  # every process writes its part
        if state.is_world_process_zero:
            folder = checkpoint_of(args, state)
            write_text(folder / COMPLETE, layout(self.accelerator))
            if self.limit:
                _rotate(folder.parent, self.limit, {state.global_step, state.best_global_step or state.global_step})


def _name(key: str) -> str:
    """Rename trl's `rewards/ndcg/mean` to our `reward/ndcg`; keep all other names."""
    if key.startswith("rewards/") and key.endswith("/mean"):
        return "reward/" + key.removeprefix("rewards/").removesuffix("/mean")
    return key


def _rotate(checkpoints: Path, limit: int, keep: set[int]) -> None:
    """Delete the oldest checkpoints above the limit, less those of the steps to keep.

    A mark goes before its checkpoint, so that a kill leaves no part of one that looks complete.
    """
    steps = sorted(_step(folder) for folder in checkpoints.glob("checkpoint-*"))
    old = [step for step in steps if step not in keep]
    for step in old[: max(len(steps) - max(limit, len(keep)), 0)]:
        folder = checkpoints / f"checkpoint-{step}"
        (folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _log_table(rows: list[dict[str, Any]], step: int) -> None:
    if wandb.run is None:
        return
    rewards = list(rows[0]["rewards"])
    known = ["step", "qid", "completion", "status", "ranking", MEASURE]
    table = wandb.Table(columns=[*known, *rewards, "reward", "advantage"])
    for row in rows:
        read = {**row, "ranking": None if row["ranking"] is None else " > ".join(row["ranking"])}
        table.add_data(
            *(read[name] for name in known),
            *(row["rewards"][name] for name in rewards),
            row["reward"],
            row["advantage"],
        )
    wandb.log({f"completions/step_{step:05d}": table})
