# ruff: noqa: T201 (a script whose output is its result)
"""What it saves to compute a prompt once for its group: forward and backward of one GRPO group, ours against trl's.

    python benchmarks/grpo_update.py [--prompt-tokens 1024] [--completion-tokens 32] [--num-generations 8]
    python benchmarks/grpo_update.py --model FOLDER --random-weights --dtype bfloat16 [--attention flex_attention]

With `--random-weights` FOLDER needs a config.json and a tokenizer, and no weights. `--attention` is for ours alone.

Both sides take one group a micro-batch, on the same model and the same random tokens, in turn; times are medians.
`--baseline trl` is trl's forward as it ships, which on a CPU projects every position onto the vocabulary;
`trl_labelled_head` projects those of completions only, as trl does on a GPU. Two floors say what could be saved at
most: the tokens of G rows over those of a shared one, and their floating-point operations with attention and head,
which are not all saved. Memory is the peak of a step above the level before it, where the weights and their gradients
are; on a CPU each side has a process of its own for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.checkpoint import base_model_dir
from rl_rerank.paradigms.listwise import Listwise
from rl_rerank.reward.base import Term
from rl_rerank.training.grpo.trainer import RankingGRPOTrainer
from rl_rerank.training.loop.task import Task
from rl_rerank_rewards.ndcg import NDCG

Way = Callable[[], Tensor]


class Group:
    """One group of random tokens, and ways to the log-probabilities of its completions."""

    def __init__(self, given: argparse.Namespace, folder: str) -> None:
        path = Path(given.model) if given.random_weights else base_model_dir(ModelConfig(path=given.model))
        args = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=given.num_generations,
            num_generations=given.num_generations,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=given.checkpointing == "on",
            gradient_checkpointing_kwargs={"use_reentrant": False},
            report_to=[],
        )
        self.trainer = RankingGRPOTrainer(
            task=Task([], Listwise(), [Term("ndcg", NDCG())]),
            model=_model(path, given),
            args=args,
            train_dataset=Dataset.from_dict({"prompt": ["0"]}),
            processing_class=AutoTokenizer.from_pretrained(path),
        )
        self.model: Any = self.trainer.model
        assert self.trainer.log_probs.refusal is None
        self.model.train()
        self.own_attention = self.model.config._attn_implementation
        if given.checkpointing == "on":  # which a trainer does when it begins to train
            self.model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        generator = torch.Generator().manual_seed(0)
        rows, size = given.num_generations, self.model.config.vocab_size
        prompt = torch.randint(size, (1, given.prompt_tokens), generator=generator).expand(rows, -1)
        completions = torch.randint(size, (rows, given.completion_tokens), generator=generator)
        self.ids = torch.cat([prompt, completions], dim=1).to(self.model.device)
        self.mask = torch.ones_like(self.ids)
        self.kept = given.completion_tokens
        self.weights = torch.randn(rows, self.kept, generator=generator).to(self.model.device)

    def ours(self) -> Tensor:
        self._attend_by(self.own_attention)
        return self.trainer.log_probs.packed(self.model, self.ids, self.mask, self.kept).log_probs

    def trl(self) -> Tensor:
        self._attend_by("sdpa")
        return self.trainer.log_probs.plain(self.model, self.ids, self.mask, self.kept).log_probs

    def trl_labelled_head(self) -> Tensor:
        self._attend_by("sdpa")
        output = self.model(self.ids, attention_mask=self.mask, logits_to_keep=self.kept + 1, use_cache=False)
        logits = output.logits[:, :-1].float()
        return logits.gather(2, self.ids[:, -self.kept :, None]).squeeze(2) - logits.logsumexp(dim=2)

    def _attend_by(self, name: str) -> None:
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)

    def step(self, way: Way) -> Tensor:
        """Forward and backward; the log-probabilities. Gradients are added to those that are there."""
        log_probs = way()
        (log_probs * self.weights).sum().backward()
        return log_probs.detach()

    def result(self, way: Way) -> tuple[Tensor, Tensor]:
        """The log-probabilities and all gradients in one vector."""
        assert self.model is not None
        self.model.zero_grad()
        log_probs = self.step(way)
        return log_probs, torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])

    def seconds(self, way: Way) -> float:
        """Of a step whose gradients are the first of an optimizer step."""
        assert self.model is not None
        self.model.zero_grad()
        started = time.perf_counter()
        self.step(way)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def peak(self, way: Way) -> int:
        """Bytes of a step above the level before it; the gradients are there."""
        before = _memory(reset=True)
        self.step(way)
        return _memory() - before


def _model(path: Path, given: argparse.Namespace) -> Any:
    wanted = {"dtype": getattr(torch, given.dtype), "attn_implementation": given.attention}
    if not given.random_weights:
        return AutoModelForCausalLM.from_pretrained(path, **wanted)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), **wanted)


def flop_floor(config: Any, prompt: int, completion: int, generations: int) -> float:
    """Operations of G rows over those of a shared one: linear layers, attention's pairs, and the head of completions.

    Factors that both have in common, such as that of the backward pass, are left out.
    """
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query, key = head * config.num_attention_heads, head * config.num_key_value_heads
    hidden = config.hidden_size
    linear = 2 * hidden * (2 * query + 2 * key + 3 * config.intermediate_size)
    pair = 4 * query

    def operations(tokens: int, pairs: float) -> float:
        layers = config.num_hidden_layers * (linear * tokens + pair * pairs)
        return layers + 2 * hidden * config.vocab_size * generations * completion

    whole = prompt + completion
    plain = operations(generations * whole, generations * whole * (whole + 1) / 2)
    suffix = completion * prompt + completion * (completion + 1) / 2
    shared = operations(prompt + generations * completion, prompt * (prompt + 1) / 2 + generations * suffix)
    return plain / shared


def peak_apart(given: argparse.Namespace, side: str) -> int:
    """`Group.peak` in a process of its own.

    That process returns freed blocks to the system at once, which makes it slow, and its peak that of what is in use.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # of glibc, for processes that start from now on
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(given, side, sender))
    process.start()
    found: int = receiver.recv()
    process.join()
    return found


def _peak(given: argparse.Namespace, side: str, sender: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        group = Group(given, folder)
        assert group.model is not None
        for parameter in group.model.parameters():
            parameter.data = parameter.detach().clone()  # what is read from a file on first use would seem the step's
            parameter.grad = torch.zeros_like(parameter)
        sender.send(group.peak(getattr(group, side)))


def _memory(*, reset: bool = False) -> int:
    """The highest level since the last reset, in bytes."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--attention", choices=("sdpa", "flex_attention", "flash_attention_2"), default="sdpa")
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--completion-tokens", type=int, default=32)
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baseline", choices=("trl", "trl_labelled_head"), default="trl_labelled_head")
    parser.add_argument("--checkpointing", choices=("on", "off"), default="on")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        group = Group(given, folder)
        theirs: Way = getattr(group, given.baseline)
        ours, plain = group.result(group.ours), group.result(theirs)
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(given.rounds):
            for times, way in zip(seconds, (theirs, group.ours), strict=True):
                times.append(group.seconds(way))
        assert group.model is not None
        config = group.model.config
        sides = (given.baseline, "ours")
        if torch.cuda.is_available():  # whose allocator tells what is in use
            memory = {side: group.peak(getattr(group, side)) for side in sides}
        else:
            memory = {side: peak_apart(given, side) for side in sides}
    prompt, completion, generations = given.prompt_tokens, given.completion_tokens, given.num_generations
    found = {
        **{name: value for name, value in vars(given).items() if name != "output"},
        "ratio": statistics.median(seconds[0]) / statistics.median(seconds[1]),
        "flop_floor_ratio": flop_floor(config, prompt, completion, generations),
        "token_floor_ratio": generations * (prompt + completion) / (prompt + generations * completion),
        "max_logprob_diff": (ours[0] - plain[0]).abs().max().item(),
        "grad_rel_diff": ((ours[1] - plain[1]).norm() / plain[1].norm()).item(),
        "peak_memory_ratio": memory["ours"] / memory[given.baseline],
        "seconds": {given.baseline: seconds[0], "ours": seconds[1]},
        "peak_bytes": memory,
    }
    text = json.dumps(found, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
