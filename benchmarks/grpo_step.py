# ruff: noqa: T201 (a script whose output is its result)
"""A whole GRPO step, from sampling to the weights: ours against trl, on windows of documentation search.

    python benchmarks/grpo_step.py [--model smollm2] [--passages 8] [--steps 3] [--rounds 3] [--output FILE.json]

A step is sampling, rewards, forward, backward, the optimizer and, with vLLM, giving it the new weights. Sides, each in
a process of its own, in turn:

    ours, ours_vllm   the framework's trainer, sampling with transformers and with vLLM
    trl               trl.GRPOTrainer as it comes, with its own generation
    trl_vllm          the same with a colocated vLLM, which on a CPU is given weights by our `RolloutEngine`, because
                      trl's way to do it fails there

All have the same model, prompts, rewards, micro-batches, checkpointing and lengths. The first step of a process warms
up; the others' median counts, and of the rounds their median again. Beside the ratios stand the mean tokens of a
completion, and the share of groups whose rewards are all equal. Neither should differ: shorter completions are less
work, and ours does not compute the update of such a group at all. An untrained model, whose answers are all malformed,
would have no others; `Chance` gives it rewards that differ, like those of a model that can answer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rl_rerank.config import DataConfig, ModelConfig
from rl_rerank.data import prepare
from rl_rerank.engines.local import vllm_environment
from rl_rerank.engines.local.checkpoint import base_model_dir, renderer
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import Term
from rl_rerank.reward.interop import as_trl
from rl_rerank.training.grpo import vllm_rollout
from rl_rerank.training.grpo.trainer import RankingGRPOTrainer
from rl_rerank.training.loop.task import Task
from rl_rerank.training.loop.training_prompts import Question, Questions
from rl_rerank.types import RankingExample, Rollout
from rl_rerank_rewards.format import Format
from rl_rerank_rewards.ndcg import NDCG

Measured = tuple[list[float], list[dict[str, float]]]
"""Seconds of steps, and what was logged of each."""
LOGGED = {"completions/mean_length": "tokens of a completion", "frac_reward_zero_std": "groups of equal rewards"}
SIDES = ("ours", "ours_vllm", "trl", "trl_vllm")


class Chance:
    """A number that depends on the text of an answer alone."""

    def __call__(self, example: RankingExample, rollout: Rollout) -> float:
        return zlib.crc32(rollout.completion.text.encode()) / 2**32


class Clock(TrainerCallback):
    """Seconds of each step, and what it logged."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.logged: list[dict[str, float]] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._started)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "completions/mean_length" in logs:
            self.logged.append({name: v for name, v in logs.items() if name.startswith("time/") or name in LOGGED})


def arguments(given: argparse.Namespace, folder: str, *, use_vllm: bool, completion_tokens: int) -> GRPOConfig:
    """The same for all sides: one group a micro-batch."""
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=given.num_generations,
        gradient_accumulation_steps=given.prompts,
        steps_per_generation=given.prompts,
        num_generations=given.num_generations,
        max_completion_length=completion_tokens,
        max_steps=1 + given.steps,
        learning_rate=1e-5,
        beta=0.0,
        loss_type="dr_grpo",
        shuffle_dataset=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_vllm=use_vllm,
        vllm_mode="colocate",
        vllm_max_model_length=given.max_prompt_tokens + completion_tokens,
        vllm_importance_sampling_mode="token_truncate",
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def data_config(given: argparse.Namespace) -> DataConfig:
    return DataConfig(depth=given.passages, train_queries=max(4 * given.prompts, 16))


def build(given: argparse.Namespace, side: str, store: Path, folder: str) -> GRPOTrainer:
    """The trainer of a side, on data that are there."""
    config = ModelConfig(path=given.model, max_prompt_tokens=given.max_prompt_tokens)
    path = base_model_dir(config)
    examples = list(prepare(data_config(given), store).examples("train"))
    paradigm = Listwise(window=given.passages)
    terms = [Term("ndcg", NDCG()), Term("format", Format()), Term("chance", Chance())]
    count = given.prompts * (1 + given.steps)
    render = renderer(config, path)
    asked = Questions(examples, paradigm, render, count=count, seed=1)
    args = arguments(given, folder, use_vllm=side.endswith("vllm"), completion_tokens=given.completion_tokens)
    common: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        "args": args,
        "processing_class": AutoTokenizer.from_pretrained(path),
    }
    engine = {"dtype": "float32"}
    if side.startswith("ours"):
        rows = Dataset.from_dict({"prompt": [str(i) for i in range(count)]})
        return RankingGRPOTrainer(
            task=Task(asked, paradigm, terms),
            rollout_args=engine if args.use_vllm else None,
            train_dataset=rows,
            **common,
        )
    rewards: list[Any] = [as_trl(term.reward, paradigm, examples, name=term.name) for term in terms]  # pyright: ignore[reportArgumentType]
    with vllm_rollout.installed(engine) if args.use_vllm else nullcontext():
        return GRPOTrainer(reward_funcs=rewards, train_dataset=plain_rows(asked, render), **common)


def plain_rows(asked: Sequence[Question], render: Any) -> Dataset:
    """The same prompts as texts, with what the rewards look up."""
    return Dataset.from_dict(
        {
            "prompt": [render(question.prompt).text for question in asked],
            "qid": [question.prompt.qid for question in asked],
            "docids": [list(question.prompt.docids) for question in asked],
        }
    )


def run(given: argparse.Namespace, side: str, store: Path, sender: Any) -> None:
    """In a process of its own: train, and send what the clock found."""
    if side.endswith("vllm"):
        vllm_environment.apply()
    with tempfile.TemporaryDirectory() as folder:
        trainer, clock = build(given, side, store, folder), Clock()
        trainer.add_callback(clock)
        torch.manual_seed(0)
        trainer.train()
        sender.send((clock.seconds[1:], clock.logged[1:]))


def measured(given: argparse.Namespace, side: str, store: Path) -> Measured:
    """In a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(given, side, store, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"the process of {side} has failed; its error stands above") from None
    finally:
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=4, help="of a step")
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--max-prompt-tokens", type=int, default=1024)
    parser.add_argument("--completion-tokens", type=int, default=48)
    parser.add_argument("--steps", type=int, default=3, help="of a round, after the first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {side: [] for side in given.sides}
    logged: dict[str, list[dict[str, float]]] = {side: [] for side in given.sides}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "data"
        prepare(data_config(given), store)
        for side in given.sides * given.rounds:
            steps, rows = measured(given, side, store)
            seconds[side].append(statistics.median(steps))
            logged[side] += rows
    middle = {side: statistics.median(values) for side, values in seconds.items()}
    found = {
        **{name: value for name, value in vars(given).items() if name != "output"},
        "seconds": seconds,
        **{
            text: {side: statistics.mean(row[name] for row in rows) for side, rows in logged.items()}
            for name, text in LOGGED.items()
        },
        "phases": {
            side: {name: statistics.median(row[name] for row in rows) for name in rows[0] if name not in LOGGED}
            for side, rows in logged.items()
        },
        "ratio": {
            f"{theirs}/{ours}": middle[theirs] / middle[ours]
            for ours in given.sides
            if ours.startswith("ours")
            for theirs in given.sides
            if theirs.startswith("trl")
        },
    }
    text = json.dumps(found, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
