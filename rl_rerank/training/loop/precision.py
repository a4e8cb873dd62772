"""The types that a stage trains in: float32 for every weight that an optimizer steps, bfloat16 for arithmetic.

`model.dtype` is the type in which a model is stored, frozen and served. AdamW moves a weight by up to the learning rate
a step. bfloat16 has 8 significant bits, so that is less than half the distance to the next number for nearly all
weights of a language model, and the update would be rounded away.

Where the weights are float32:

    local, ddp                       the trained weights; those that LoRA freezes stay in `model.dtype`
    ZeRO, model.dtype=bfloat16       the masters that DeepSpeed's bf16 mode keeps beside bfloat16 weights
    ZeRO otherwise, or bf16=false    all weights; bfloat16 arithmetic comes from DeepSpeed's autocast
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local import arithmetic, checkpoint, eyes
from rl_rerank.io.files import write_json
from rl_rerank.prompts.vision import Vision

if TYPE_CHECKING:
    from rl_rerank.stages.training import TrainingStage


RECORD = "arithmetic.json"
"""In a training stage's folder: the arithmetic that it began with."""


def uses_bf16(stage: TrainingStage, output: Path) -> bool:
    """Whether the stage computes in bfloat16; by default what it began with, or what is faster here.

    Args:
        output: the stage's folder.
    """
    if stage.bf16 is not None:
        return stage.bf16
    if (output / RECORD).is_file():
        return json.loads((output / RECORD).read_text(encoding="utf-8"))["bf16"]
    return arithmetic.prefers_bf16()


def record(stage: TrainingStage, output: Path) -> None:
    """Record the arithmetic of a stage that begins, so that it continues in the same on another machine."""
    if os.environ.get("RANK", "0") == "0":
        write_json(output / RECORD, {"bf16": uses_bf16(stage, output)})


def checkpoints(stage: TrainingStage) -> bool:
    """Whether layers are computed again in the backward instead of kept; by default on CUDA, where memory is short."""
    return torch.cuda.is_available() if stage.gradient_checkpointing is None else stage.gradient_checkpointing


def keep_float32(arguments: TrainingArguments, model: ModelConfig) -> None:
    """Let DeepSpeed compute in bfloat16 by autocast if the model is stored in float32.

    Its bf16 mode would round the weights to bfloat16 when training starts, and the trained ones when they are saved.
    """
    plugin: Any = arguments.deepspeed_plugin
    if plugin is None or not arguments.bf16 or model.dtype != "float32":
        return
    # DeepSpeed's autocast and its bf16 mode exclude each other, and transformers would ask for the latter.
    arguments.bf16, arguments.mixed_precision = False, "no"
    plugin.deepspeed_config |= {"bf16": {"enabled": False}, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    plugin.set_deepspeed_weakref()


def load(
    start: Path,
    model: ModelConfig,
    stage: TrainingStage,
    arguments: TrainingArguments,
    vision: Vision | None = None,
) -> PreTrainedModel:
    """Load the stage's starting model in the type that it is trained in.

    Args:
        arguments: made before, because ZeRO-3 shards what is loaded as they say.
        vision: of the renderer whose prompts it computes; None: they show no images.
    """
    # DeepSpeed takes one type for all weights, frozen ones too; in its bf16 mode it casts them itself.
    is_sharded = arguments.deepspeed_plugin is not None
    dtype = "float32" if stage.lora is None or is_sharded else model.dtype
    loaded = checkpoint.load_model(start, dtype, model.trust_remote_code)
    eyes.install(loaded, vision)
    return loaded


def load_frozen(folder: Path, model: ModelConfig, arguments: TrainingArguments) -> PreTrainedModel:
    """Load a model that is not trained, in `model.dtype`, or in float32 where DeepSpeed chooses the type.

    Args:
        arguments: made before, as those of `load`.
    """
    dtype = "float32" if arguments.deepspeed_plugin is not None else model.dtype
    return checkpoint.load_model(folder, dtype, model.trust_remote_code)


def computes_in_float32(accelerator: Accelerator, model: nn.Module) -> bool:
    """Whether no part of the model's forward is in reduced precision."""
    autocast = _deepspeed(accelerator).get("torch_autocast", {}).get("enabled", False)
    return accelerator.mixed_precision == "no" and not autocast and next(model.parameters()).dtype == torch.float32


def require_masters(trainer: Trainer) -> None:
    """Refuse to step an optimizer on weights in reduced precision.

    Raises:
        ValueError: with the arithmetic for one of these weights.
    """
    bf16 = _deepspeed(trainer.accelerator).get("bf16", {})
    if bf16.get("enabled") is True and not bf16.get("bf16_master_weights_and_grads"):
        return
    assert trainer.model is not None
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            raise ValueError(_rounded_away(name, weight, trainer.args.learning_rate))


def _rounded_away(name: str, weight: torch.Tensor, rate: float) -> str:
    dtype = str(weight.dtype).removeprefix("torch.")
    size = weight.detach().float().abs().mean().item() if weight.numel() else 0.0
    half = 2.0 ** math.floor(math.log2(size)) * torch.finfo(weight.dtype).eps / 2 if size else 0.0
    return (
        f"the optimizer would step {name} in {dtype} without float32 masters. Its weights are about {size:.2g}, where "
        f"half the spacing of {dtype} numbers is {half:.1g}; updates of up to learning_rate={rate:g} that are smaller "
        "are rounded away"
    )


def _deepspeed(accelerator: Accelerator) -> dict[str, Any]:
    """DeepSpeed's configuration; empty without it."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return {}
    plugin: Any = accelerator.state.deepspeed_plugin
    return plugin.deepspeed_config
