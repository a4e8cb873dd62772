"""Trackers: wandb offline by default, tensorboard, all inside the run folder."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import wandb
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rl_rerank.config import Config


def prepare(config: Config, output: Path) -> None:
    """Point the trackers at the stage's folder. wandb stays offline unless WANDB_MODE says otherwise."""
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_PROJECT", "rl-rerank")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_DIR"] = str(output)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(output / "tensorboard")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class ConfigRecord(TrainerCallback):
    """Adds our resolved configuration to the wandb run, if there is one."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and wandb.run is not None:
            wandb.config.update({"rl_rerank": dataclasses.asdict(self.config)}, allow_val_change=True)
