# ruff: noqa: T201 (a script whose output is its result)
"""The estimate of `rl-rerank plan` against the measured memory of a training step, on the CPU in float32.

    python benchmarks/plan_memory.py [--only one,zero2]

Each configuration trains a random Llama for two steps in processes of its own, with transformers' trainer and the
launcher's accelerate files. Measured is the peak of resident memory in the second step, when the optimizer's states
exist, above that before the model. Memory of every size is mapped by itself, so that the allocator keeps none.
"""

# Shape legend: B rows, L tokens of a row.

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_rerank.config import LoraConfig, ModelConfig
from rl_rerank.io import build_locks
from rl_rerank.io.cache import cache_dir
from rl_rerank.io.files import conf_dir

ROWS, LENGTH = 2, 512
"""B and L of a micro-batch."""
MICRO_BATCHES = 2
"""Of a step: from the second on, the gradients of those before it are there."""
SIZES = {
    "36M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10, "num_attention_heads": 8},
    "87M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}
VOCABULARY = 2048  # small: all logits of a micro-batch fit a tile of the fused head
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Case:
    """A configuration."""

    size: str
    strategy: str
    lora: bool
    checkpointing: bool

    @property
    def processes(self) -> int:
        return 1 if self.strategy == "local" else 2

    def __str__(self) -> str:
        weights = "LoRA" if self.lora else "all weights"
        return (
            f"{self.size}, {self.strategy} x {self.processes}, {weights}, {'with' if self.checkpointing else 'without'}"
        )


CASES = (
    Case("36M", "local", False, False),
    Case("87M", "local", False, True),
    Case("87M", "local", False, False),
    Case("87M", "local", True, False),
    Case("87M", "local", True, True),
    Case("87M", "zero2", False, False),
    Case("87M", "zero3", False, True),
    Case("36M", "zero3", False, False),
)


def main() -> None:
    """Measure every case and print a table for docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="strategies to measure, separated by commas")
    given = parser.parse_args()
    if given.case is not None:
        _train(CASES[given.case], given.folder)
        return
    print("| model, processes, weights, checkpointing | estimate, GiB | measured, GiB | estimate / measured |")
    print("| --- | ---: | ---: | ---: |")
    for number, case in enumerate(CASES):
        if given.only and case.strategy not in given.only.split(","):
            continue
        with tempfile.TemporaryDirectory() as folder:
            expected, measured = _estimated(case, Path(folder)), _measured(number, case, Path(folder))
        print(f"| {case} | {expected:.2f} | {measured:.2f} | {expected / measured:.2f} |", flush=True)


def _estimated(case: Case, folder: Path) -> float:
    """GiB of a process by the estimate; leaves the model's configuration in `folder`."""
    from transformers import LlamaConfig

    from rl_rerank.training.memory import cards, estimate
    from rl_rerank.training.memory.setup import Setup

    sizes: dict[str, Any] = SIZES[case.size]
    LlamaConfig(**sizes, vocab_size=VOCABULARY, tie_word_embeddings=True).save_pretrained(folder)
    setup = Setup(
        model=ModelConfig(path=str(folder)),
        strategy=case.strategy,
        processes=case.processes,
        lora=LoraConfig(r=16) if case.lora else None,
        bf16=False,
        checkpointing=case.checkpointing,
        has_reference=False,
        tokens=ROWS * LENGTH,
    )
    return estimate.estimate(setup, cards.parse("cpu"), setup.largest).peak


def _measured(number: int, case: Case, folder: Path) -> float:
    """GiB of the first process, measured."""
    launch = [sys.executable]
    if case.processes > 1:
        file = conf_dir() / f"accelerate/{case.strategy}.yaml"
        python = ["--no_python", "env", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", sys.executable]
        launch += ["-m", "accelerate.commands.launch", "--config_file", str(file)]
        launch += ["--num_processes", str(case.processes), "--main_process_port", "0", *python]
    build_locks.prepare(cache_dir())
    command = [*launch, str(Path(__file__).resolve()), "--case", str(number), "--folder", str(folder)]
    ended = subprocess.run(command, env={**os.environ, **QUIET, **MAPPED}, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{case}: {ended.stderr[-3000:]}")
    return json.loads((folder / "peak.json").read_text()) / 2**30


def _train(case: Case, folder: Path) -> None:
    """Train two steps and leave the peak of the first process, in bytes, in `folder`."""
    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from rl_rerank.training.loop.arguments import peft_config

    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=MICRO_BATCHES,
        max_steps=2,
        gradient_checkpointing=case.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    _warm_up(torch)
    before = _resident("VmRSS")
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    if case.lora:
        adapters: Any = peft_config(LoraConfig(r=16))
        model = get_peft_model(model, adapters)

    class Peak(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                ctypes.CDLL("libc.so.6").malloc_trim(0)
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            if state.global_step == 2 and state.is_world_process_zero:
                (folder / "peak.json").write_text(str(_resident("VmHWM") - before))

    ids = torch.randint(0, VOCABULARY, (2 * MICRO_BATCHES * ROWS * case.processes, LENGTH)).tolist()
    data = Dataset.from_dict({"input_ids": ids, "labels": ids})
    Trainer(model, arguments, train_dataset=data, callbacks=[Peak()]).train()


def _warm_up(torch: Any) -> None:
    """Use the kernels once, so that their code and scratch memory are there before the model."""
    x = torch.randn(4, 8, 64, 64, requires_grad=True)
    y = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).flatten(2)
    (y @ torch.randn(4, 4096, 64)).log_softmax(-1).sum().backward()


def _resident(name: str) -> int:
    """A number of bytes of /proc/self/status, such as VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
