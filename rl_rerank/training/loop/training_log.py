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
from rl_rerank.io.files import read_jsonl, write_jsonl, write_text
from rl_rerank.training.loop.table import MEASURE


def layout(accelerator: Accelerator) -> str:
    """Describe the sharding of a checkpoint's states: only the same sharding over as many processes can load it.

    Without sharding the number of processes may change between a kill and the resumption.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return "unsharded"
    plugin = accelerator.state.deepspeed_plugin
    assert plugin is not None
    return f"zero{plugin.zero_stage} over {accelerator.num_processes} processes"


def resumable_checkpoint(checkpoints: Path, accelerator: Accelerator) -> str | None:
    """Find the newest complete checkpoint, and delete incomplete ones.

    Raises:
        ValueError: if its layout is not that of this run.
    """
    whole: list[tuple[int, Path]] = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / COMPLETE).exists():
            whole.append((int(folder.name.rsplit("-", 1)[1]), folder))
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
    """Appends each step to metrics.jsonl and its completions to completions.jsonl; marks complete checkpoints."""

    def __init__(
        self, folder: Path, accelerator: Accelerator, completions: Callable[[], list[dict[str, Any]]] | None = None
    ) -> None:
        self.accelerator = accelerator
        self.metrics = folder / "metrics.jsonl"
        self.completions_file = folder / "completions.jsonl"
        self.completions = completions
        self._written: list[dict[str, Any]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            for path in (self.metrics, self.completions_file):
                _keep_until(path, state.global_step)

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
        _append(self.metrics, [row])
        # Several steps may train on the completions of one batch.
        if self.completions is not None and (rows := self.completions()) and rows is not self._written:
            self._written = rows
            _append(self.completions_file, rows)
            _log_table(rows, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.accelerator.wait_for_everyone()  # every process writes its part
        if state.is_world_process_zero:
            assert args.output_dir is not None
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_text(folder / COMPLETE, layout(self.accelerator))


def _name(key: str) -> str:
    """Rename trl's `rewards/ndcg/mean` to our `reward/ndcg`; keep all other names."""
    if key.startswith("rewards/") and key.endswith("/mean"):
        return "reward/" + key.removeprefix("rewards/").removesuffix("/mean")
    return key


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _keep_until(path: Path, step: int) -> None:
    """Drop rows after `step`, and a last line truncated by a kill."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    write_jsonl(path, [row for row in read_jsonl(path) if row["step"] <= step])


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
