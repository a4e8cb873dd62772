"""Policies without rollouts; writes what test_sharded.py compares."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainingArguments

from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.paradigms.setwise import Setwise
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.training.exact.lists import ListCollator, lists, reading
from rl_rerank.training.exact.supervised import RankingTrainer
from rl_rerank.training.exact.trainer import PolicyTrainer
from rl_rerank.training.losses.build import build_loss
from rl_rerank_rewards.setwise_label import SetwiseLabel
from support import small_tokenizers
from support.choice_objective import choice_objective
from support.scores_objective import EXAMPLES, scores_objective
from support.strategies import active

STEPS, PER_STEP = 4, 4
TOKENS = 300
"""Token budget of the last two, above one list and below two."""


def scores(tokenizer: Any, shared: dict[str, Any]) -> PolicyTrainer:
    made = scores_objective(tokenizer, count=STEPS * PER_STEP, beta=0.05, entropy=0.01)
    return PolicyTrainer(objective=made, reference=shared.pop("reference"), **shared)


def choice(tokenizer: Any, shared: dict[str, Any]) -> PolicyTrainer:
    made = choice_objective(tokenizer, Setwise(children=2), SetwiseLabel(), beta=0.05)
    return PolicyTrainer(objective=made, reference=shared.pop("reference"), **shared)


def ranked(tokenizer: Any, shared: dict[str, Any]) -> RankingTrainer:
    del shared["reference"]
    paradigm, renderer = Pointwise(), Renderer(tokenizer, max_prompt_tokens=400)
    found = lists(EXAMPLES, paradigm, renderer, count=STEPS * PER_STEP, size=None, seed=1, with_answers=True)
    collator = ListCollator(found, reading(paradigm, renderer), with_answers=True)
    loss = build_loss("test", "softmax", {})
    return RankingTrainer(data_collator=collator, loss=loss, answer_weight=0.5, **shared)


MADE = {"scores": scores, "choice": choice, "lists": ranked, "scores-tokens": scores, "lists-tokens": ranked}
"""With `tokens` micro-batches are filled up to as many of them."""


def train(name: str, model_dir: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    share = PER_STEP // int(os.environ.get("WORLD_SIZE", "1"))
    tasks = [i % (6 if name == "choice" else STEPS * PER_STEP) for i in range(STEPS * PER_STEP)]
    budget = TOKENS if name.endswith("tokens") else None
    args = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=1 if budget is None else share,
        gradient_accumulation_steps=share if budget is None else 1,
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
    shared = {"model": models[0], "reference": models[1], "pad_id": 0, "args": args, "micro_batch_tokens": budget}
    run = MADE[name](small_tokenizers.chatml(), {**shared, "train_dataset": Dataset.from_dict({"index": tasks})})
    run.train()
    state = run.accelerator.get_state_dict(run.model_wrapped)
    if run.accelerator.is_main_process:
        torch.save({k: v.clone() for k, v in state.items()}, output / "weights.pt")
        rows = [row for row in run.state.log_history if "grad_norm" in row]
        found = {"world": run.accelerator.num_processes, "strategy": active(run), "rows": rows}
        (output / "history.json").write_text(json.dumps(found))
