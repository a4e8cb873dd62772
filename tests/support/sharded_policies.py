"""Policies without rollouts; writes what test_sharded.py compares."""

import json
import os
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainingArguments

from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.training.exact.trainer import PolicyTrainer
from rl_rerank_rewards.setwise_label import SetwiseLabel
from support import small_tokenizers
from support.choice_objective import choice_objective
from support.scores_objective import scores_objective

STEPS, PER_STEP = 4, 4
MADE = {
    "scores": lambda tokenizer: scores_objective(tokenizer, count=STEPS * PER_STEP, beta=0.05, entropy=0.01),
    "choice": lambda tokenizer: choice_objective(tokenizer, Setwise(children=2), SetwiseLabel(), beta=0.05),
}


def train(name: str, model_dir: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    made = MADE[name](small_tokenizers.chatml())
    tasks = [i % (6 if name == "choice" else STEPS * PER_STEP) for i in range(STEPS * PER_STEP)]
    args = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=PER_STEP // world,
        max_steps=STEPS,
        learning_rate=1e-3,
        adam_epsilon=1e-5,  # Adam would blow up the rounding of gradients that are next to nothing
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        report_to=[],
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
    )
    # Made behind the arguments, which tell transformers of ZeRO-3.
    models = [AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32) for _ in range(2)]
    dataset = Dataset.from_dict({"index": tasks})
    run = PolicyTrainer(
        objective=made, model=models[0], reference=models[1], pad_id=0, args=args, train_dataset=dataset
    )
    run.train()
    state = run.accelerator.get_state_dict(run.model_wrapped)
    if run.accelerator.is_main_process:
        torch.save({k: v.clone() for k, v in state.items()}, output / "weights.pt")
        rows = [row for row in run.state.log_history if "grad_norm" in row]
        (output / "history.json").write_text(json.dumps({"world": run.accelerator.num_processes, "rows": rows}))
