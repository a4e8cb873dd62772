"""GRPO on stored completions; writes what test_sharded.py compares."""

import itertools
import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rl_rerank.reward.base import Term
from rl_rerank.training.loop.batches import prompt_order
from rl_rerank.training.loop.training_prompts import Question
from support import small_tokenizers
from support.grpo_trainer import Uneven, trainer
from support.strategies import active

NUM_STEPS, PROMPTS, GENERATIONS, COMPLETION_TOKENS, MICRO_BATCH = 10, 4, 4, 6, 4


def stored(question: int, end_id: int, longest: int) -> list[list[int]]:
    """The completions of a question, the same in every run: fewer than `longest` tokens and mostly an end token."""
    rng = random.Random(question)
    found = []
    for _ in range(GENERATIONS):
        tokens = [rng.randrange(10, 300) for _ in range(rng.randint(1, longest - 1))]
        found.append([*tokens, end_id] if rng.random() < 0.8 else tokens)
    return found


VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": True},
    "full-kl": {"beta": 0.04, "num_iterations": 2},
    "lora-kl": {"lora": True, "beta": 0.04, "num_iterations": 2},
    "full-kl-tokens": {"beta": 0.04, "num_iterations": 2, "micro_batch_tokens": 300},
    "full-kl-updates": {"beta": 0.04, "updates": 2},
    "teacher": {"teacher_weight": 0.5, "num_iterations": 2},
    "uneven": {},
    "uneven-tokens": {"micro_batch_tokens": 300, "loss_type": "dapo"},
    "full-kl-pieces": {"beta": 0.04, "num_iterations": 2, "micro_batch_tokens": 290, "max_completion_length": 100},
    "uneven-pieces": {"micro_batch_tokens": 290, "max_completion_length": 100, "loss_type": "dapo"},
}
"""With beta above 0 and two iterations the value of the loss depends on the model, and so it does with a teacher, which
is the model that training starts from; else it is the same for any. With `updates` a batch of completions is of two
steps. In `uneven` all groups of the second process are worth the same, and skipped. With `tokens` micro-batches are
filled up to as many of them. With `pieces` some groups are divided, and their prompts kept if the strategy can."""
DEAD = ("q3", "q4", "q5")
"""Queries of the questions that the second process has in `uneven`."""


def train(name: str, model_dir: Path, output: Path) -> None:
    settings = dict(VARIANTS[name])
    updates = settings.pop("updates", 1)
    output.mkdir(parents=True, exist_ok=True)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro_batch = MICRO_BATCH if "micro_batch_tokens" not in settings else PROMPTS * GENERATIONS // world
    steps = PROMPTS * GENERATIONS // (micro_batch * world)
    run = trainer(
        model_dir,
        small_tokenizers.chatml(),
        output,
        num_questions=NUM_STEPS * PROMPTS,
        max_steps=NUM_STEPS,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=steps,
        steps_per_generation=steps * updates,
        max_completion_length=settings.pop("max_completion_length", COMPLETION_TOKENS),
        order=prompt_order(PROMPTS * updates, updates, world),
        teacher=model_dir if "teacher_weight" in settings else None,
        **settings,
    )
    if name.startswith("uneven"):
        terms = [Term("ndcg", Uneven(*DEAD)), Term("nothing", lambda example, rollout: 0.0)]
        run.task = replace(run.task, questions=one_side(run.task.questions), terms=terms)
    seen = record(run)
    rows: list[int] = []
    run.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    run.train()
    state = run.accelerator.get_state_dict(run.model_wrapped)
    torch.save(seen, output / f"seen{run.accelerator.process_index}.pt")
    (output / f"forwards{run.accelerator.process_index}.json").write_text(json.dumps(rows))
    if run.accelerator.is_main_process:
        torch.save({k: v.clone() for k, v in state.items()}, output / "weights.pt")
        rows = [row for row in run.state.log_history if "grad_norm" in row]
        prompt = min(len(question.token_ids) for question in run.task.questions)
        found = {"world": run.accelerator.num_processes, "strategy": active(run)}
        found |= {"shortest_prompt": prompt, "rows": rows}
        (output / "history.json").write_text(json.dumps(found))


def one_side(asked: Sequence[Question]) -> list[Question]:
    """As many questions, of which the second two of every four are about `DEAD`."""
    sides = [itertools.cycle([q for q in asked if (q.example.qid in DEAD) == dead]) for dead in (False, True)]
    return [next(sides[index % PROMPTS >= PROMPTS // 2]) for index in range(len(asked))]


def record(run: Any) -> dict[tuple[int, tuple[int, ...]], list[float]]:
    """Have the trainer replay stored completions; returns what it fills: (step, token ids) -> log-probs in training."""
    seen: dict[tuple[int, tuple[int, ...]], list[float]] = {}
    known = {tuple(q.token_ids): i for i, q in enumerate(run.task.questions)}
    inner = run._get_per_token_logps_and_entropies

    def replay(prompt_ids, *_, **__):
        keys = [known[tuple(ids)] for ids in prompt_ids[::GENERATIONS]]
        return [
            completion for key in keys for completion in stored(key, run.eos_token_ids[0], run.max_completion_length)
        ], None

    def recorded(model, input_ids, attention_mask, *args, **kwargs):
        found = inner(model, input_ids, attention_mask, *args, **kwargs)
        if torch.is_grad_enabled():
            for ids, mask, values in zip(input_ids, attention_mask.bool(), found[0].tolist(), strict=True):
                seen[run.state.global_step, tuple(ids[mask].tolist())] = [v for v in values if v]
        return found

    run._generate_single_turn = replay
    run._get_per_token_logps_and_entropies = recorded
    return seen
