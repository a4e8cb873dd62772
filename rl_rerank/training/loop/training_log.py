"""Records of a training run: metrics per step, and completions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wandb
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.io import rotated
from rl_rerank.training.loop.table import MEASURE, drawn

TABLES = 100
"""Steps whose completions the tracker has as tables, about, at equal distances."""


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


def _name(key: str) -> str:
    """Rename trl's `rewards/ndcg/mean` to our `reward/ndcg`; keep all other names."""
    if key.startswith("rewards/") and key.endswith("/mean"):
        return "reward/" + key.removeprefix("rewards/").removesuffix("/mean")
    return key


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
