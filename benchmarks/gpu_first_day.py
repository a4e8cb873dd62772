# ruff: noqa: T201 (a script whose output is its result)
"""What a new GPU has to show before it trains: packed rows are right, fast and as large as estimated. Eight minutes.

    python benchmarks/gpu_first_day.py [--out FILE] [--minutes 8]
    python benchmarks/gpu_first_day.py --small      on a CPU, with tiny models: that the script itself works

Models have random weights in the shapes of SmolLM2-135M and Qwen3-4B, so nothing is downloaded. For each attention that
is installed, and one GRPO group with lengths from a log-normal distribution:

    equality     log-probabilities and gradients of a packed row against trl's rows, in bfloat16; float32 for SDPA
    speed        forward and backward against trl's own path with its fused head, in turn, medians
    memory       peak of a step, with gradient checkpointing, against the estimate of `rl-rerank plan`

Then the tests marked `gpu` run in the time that is left. Exit status 1 if anything is unequal or fails; a part for
which no time is left says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from rl_rerank.config import ModelConfig
from rl_rerank.packed.forward import install, pack, scored
from rl_rerank.packed.layout import Labelled
from rl_rerank.training.memory import activations, state
from rl_rerank.training.memory.setup import Setup

SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
"""https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"""

QWEN3_4B = {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 40960, "tie_word_embeddings": True,
}  # fmt: skip
"""https://huggingface.co/Qwen/Qwen3-4B"""

TINY = {
    "vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip

PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}

EQUAL = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (5e-2, 5e-2)}
"""Mean difference of log-probabilities in nats, and of gradients relative to their norm, that pass as rounding."""


def group(prompt: int, completion: int, size: int, vocabulary: int) -> list[Labelled]:
    """Draw a prompt and completions of log-normal lengths."""
    rng = random.Random(0)
    shared = [rng.randrange(vocabulary) for _ in range(prompt)]
    sigma = math.sqrt(math.log(1 + 0.8**2))
    lengths = [max(1, round(rng.lognormvariate(math.log(completion) - sigma**2 / 2, sigma))) for _ in range(size)]
    return [([*shared, *(rng.randrange(vocabulary) for _ in range(length))], prompt) for length in lengths]


def trls(model: Any, sequences: list[Labelled]) -> Tensor:
    """trl's own path: a padded row for each completion, its fused head on labels."""
    width, device = max(len(ids) for ids, _ in sequences), next(model.parameters()).device
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row, _ in sequences], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in sequences], device=device)
    first = torch.tensor([first for _, first in sequences], device=device)[:, None]
    is_label = (torch.arange(width, device=device) >= first) & mask.bool()
    labels = ids.masked_fill(~is_label, -100)
    found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs
    return found[is_label[:, 1:]]


def packed(model: Any, sequences: list[Labelled]) -> Tensor:
    """One row."""
    return scored(model, pack(sequences).to(next(model.parameters()).device)).log_probs


def built(shape: str, attention: str, dtype: torch.dtype, device: str) -> Any:
    """A model with random weights, prepared for both ways."""
    kinds = {
        "SmolLM2-135M": (LlamaForCausalLM, LlamaConfig, SMOLLM2),
        "Qwen3-4B": (Qwen3ForCausalLM, Qwen3Config, QWEN3_4B),
        "tiny": (LlamaForCausalLM, LlamaConfig, TINY),
    }
    model_class, config_class, sizes = kinds[shape]
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = model_class._from_config(config_class(**sizes), dtype=dtype, attn_implementation=attention)
    add_fused_lm_head(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    install(model)
    return model


def gradients(model: Any) -> Tensor:
    """All gradients in one vector, cleared afterwards."""
    found = torch.cat([p.grad.flatten().float() for p in model.parameters()])
    model.zero_grad()
    return found


def step(way: Callable[[Any, list[Labelled]], Tensor], model: Any, sequences: list[Labelled]) -> tuple[Tensor, float]:
    """Forward and backward; log-probabilities and seconds."""
    start = time.perf_counter()
    found = way(model, sequences)
    found.sum().backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found.detach(), time.perf_counter() - start


def compared(model: Any, sequences: list[Labelled], rounds: int) -> dict[str, Any]:
    """Equality, speed and, on CUDA, the peaks of both ways."""
    sums: dict[str, Tensor] = {}
    grads: dict[str, Tensor] = {}
    seconds: dict[str, list[float]] = {"trl": [], "packed": []}
    peaks: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, way in (("trl", trls), ("packed", packed)):
            model.zero_grad()
            before = 0
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            sums[name], took = step(way, model, sequences)
            if torch.cuda.is_available():
                peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
            if number:  # the first round compiles and warms up
                seconds[name].append(took)
            else:
                grads[name] = gradients(model)
    apart = (grads["trl"] - grads["packed"]).norm() / grads["trl"].norm()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    gap = (sums["trl"] - sums["packed"]).abs().mean().item()
    allowed = EQUAL[next(model.parameters()).dtype]
    return {
        "nats_apart": gap,
        "gradients_apart": apart.item(),
        "is_equal": gap <= allowed[0] and apart.item() <= allowed[1],
        "seconds": median,
        "times_as_fast": median["trl"] / median["packed"],
        "peak_gib": peaks,
    }


def estimated(model: Any, sequences: list[Labelled]) -> float:
    """GiB of a packed step above the weights, as `rl-rerank plan` counts them, with the gradients."""
    tokens, dtype = pack(sequences).layout.length, next(model.parameters()).dtype
    name: Any = str(dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        setup = Setup(
            model=ModelConfig(path=folder, dtype=name),
            strategy="zero2",  # whose bfloat16 weights are computed with as they are
            processes=1,
            lora=None,
            bf16=dtype == torch.bfloat16,
            checkpointing=True,
            has_reference=False,
            tokens=tokens,
        )
        found = activations.count(setup, tokens)
        head = state.head(setup, activations.parameters(setup))
    gradients = sum(p.numel() * p.element_size() for p in model.parameters())
    return (max(found.kept + head, found.forward, found.backward) + gradients) / 2**30


def main() -> int:
    """Print a line for each part and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny models on a CPU")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not given.small and not torch.cuda.is_available():
        parser.error("no CUDA device; --small runs on a CPU")
    end = time.monotonic() + 60 * given.minutes
    device = "cpu" if given.small else "cuda"
    attentions = ["sdpa"] if given.small else ["sdpa", "flex_attention"]
    attentions += [name for name, package in PACKAGES.items() if not given.small and importlib.util.find_spec(package)]
    parts: list[tuple[str, str, torch.dtype, tuple[int, int, int]]]
    if given.small:
        parts = [("tiny", "sdpa", dtype, (60, 20, 4)) for dtype in (torch.float32, torch.bfloat16)]
    else:
        parts = [("SmolLM2-135M", "sdpa", torch.float32, (1024, 128, 8))]
        parts += [
            (shape, name, torch.bfloat16, (3000, 500, 8))
            for shape in ("SmolLM2-135M", "Qwen3-4B")
            for name in attentions
        ]
    rows: list[dict[str, Any]] = []
    for shape, attention, dtype, sizes in parts:
        row: dict[str, Any] = {
            "model": shape,
            "attention": attention,
            "dtype": str(dtype),
            "P/R/G": "/".join(map(str, sizes)),
        }
        if time.monotonic() > end - 60 and not given.small:
            rows.append({**row, "left_out": "no time left"})
            continue
        try:
            model = built(shape, attention, dtype, device)
            sequences = group(*sizes, model.config.vocab_size)
            row["estimated_gib"] = estimated(model, sequences)
            row |= compared(model, sequences, 1 if given.small else 3)
            del model
        except Exception as e:  # noqa: BLE001 (one kernel that fails should not hide the others' results)
            row |= {"failed": f"{type(e).__name__}: {e}"}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    tests = ""
    if not given.small:
        left = max(end - time.monotonic(), 30)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
            tests = done.stdout.strip().splitlines()[-1]
            if done.returncode:
                rows.append({"failed": tests})
        except subprocess.TimeoutExpired:
            tests = f"the tests marked gpu did not end in {left:.0f} s"
        print(tests)
    if given.out is not None:
        card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        given.out.write_text(json.dumps({"device": card, "parts": rows, "tests": tests}, indent=1), encoding="utf-8")
    return int(any("failed" in row or row.get("is_equal") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
