"""Trainer arguments of trl and transformers, made from our stage configuration."""

from __future__ import annotations

import os
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig as PeftLoraConfig
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.sft_config import SFTConfig

from rl_rerank import registry
from rl_rerank.config import Config, LoraConfig, unknown_key
from rl_rerank.training.grpo import algorithms
from rl_rerank.training.loop import owned, precision
from rl_rerank.training.loop.batches import Batches, layout

if TYPE_CHECKING:
    from rl_rerank.stages.grpo.policies import TokensPolicy
    from rl_rerank.stages.grpo.spec import GRPOStage
    from rl_rerank.stages.sft.spec import SFTStage
    from rl_rerank.stages.training import TrainingStage

OURS_BY_DEFAULT = ("run_name", "save_total_limit", "logging_steps", "dataloader_num_workers")
"""Fields that a stage sets and `trl:` may set otherwise."""


def sft_arguments(config: Config, stage: SFTStage, output: Path) -> SFTConfig:
    """Build the SFTConfig of a supervised stage: its rows in order, each once."""
    step = _step(config, stage, output)
    return _build(
        SFTConfig,
        config,
        stage,
        output,
        per_device_train_batch_size=step.micro_batch,
        gradient_accumulation_steps=step.micro_batches,
        max_length=None,
        completion_only_loss=False,
        loss_type="nll",
        dataset_kwargs={"skip_prepare_dataset": True},  # rows are tokenised when a batch is made
        train_sampling_strategy="sequential",
        dataloader_num_workers=_num_workers(),
    )


def grpo_arguments(
    config: Config, stage: GRPOStage, policy: TokensPolicy, output: Path, *, max_completion_tokens: int
) -> GRPOConfig:
    """Build a stage's GRPOConfig: one generation batch is the prompts of `updates_per_batch` optimizer steps."""
    step = _step(config, stage, output)
    if stage.trl.get("sync_ref_model") and not stage.beta:
        raise ValueError("trl.sync_ref_model needs a reference model, and beta=0 has none; set beta above 0")
    return _build(
        GRPOConfig,
        config,
        stage,
        output,
        per_device_train_batch_size=step.micro_batch,
        gradient_accumulation_steps=step.micro_batches,
        steps_per_generation=step.micro_batches * policy.updates_per_batch,
        num_generations=stage.num_generations,
        num_iterations=policy.num_iterations,
        use_bias_correction_kl=policy.kl_estimator == "k3_weighted",
        max_completion_length=max_completion_tokens,
        temperature=stage.temperature,
        beta=stage.beta,
        **algorithms.arguments(policy, stage.scale_rewards),
        **stage.rollout.trl_arguments(),
        vllm_max_model_length=config.model.max_prompt_tokens + max_completion_tokens,
        shuffle_dataset=False,
        reward_weights=[reward.weight for reward in config.rewards.values()],
    )


def policy_arguments(config: Config, stage: GRPOStage, output: Path) -> TrainingArguments:
    """Build the TrainingArguments of a stage that samples no text: its tasks in order, each once."""
    step = _step(config, stage, output)
    return _build(
        TrainingArguments,
        config,
        stage,
        output,
        per_device_train_batch_size=step.micro_batch,
        gradient_accumulation_steps=step.micro_batches,
        train_sampling_strategy="sequential",
        dataloader_num_workers=_num_workers(),
    )


def peft_config(lora: LoraConfig | None) -> PeftLoraConfig | None:
    """Build the adapter's configuration; None for full training."""
    if lora is None:
        return None
    return PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _num_workers() -> int:
    """Count the processes that render batches ahead of a GPU. On a CPU they would only take turns with training."""
    return 2 if torch.cuda.is_available() else 0


def _step(config: Config, stage: TrainingStage, output: Path) -> Batches:
    processes = int(os.environ.get("WORLD_SIZE", config.launcher.num_processes))
    return layout(output.name, stage.step(), stage.micro_batch, processes)


def _schedule(stage: TrainingStage) -> dict[str, Any]:
    warmup = round(stage.warmup_ratio * stage.max_steps)
    # transformers' "constant" has no warm-up.
    constant = "constant_with_warmup" if warmup else "constant"
    return {
        "lr_scheduler_type": constant if stage.schedule == "constant" else stage.schedule,
        "warmup_steps": warmup,
    }


def _build(cls: Any, config: Config, stage: TrainingStage, output: Path, **special: Any) -> Any:
    values: dict[str, Any] = {
        "output_dir": str(output / "checkpoints"),
        "run_name": f"{config.experiment or 'rl-rerank'}-{output.name}",
        "learning_rate": stage.learning_rate,
        "max_steps": stage.max_steps,
        **_schedule(stage),
        "weight_decay": stage.weight_decay,
        "bf16": precision.uses_bf16(stage, output),
        "gradient_checkpointing": precision.checkpoints(stage),
        # The other way keeps no graph of a layer, so its hooks do not fire where DDP and DeepSpeed expect them.
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "save_steps": stage.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": config.report_to,
        "seed": stage.seed,
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **special,
    }
    owned.refuse(f"stages.{output.name}", stage.trl)
    hints = typing.get_type_hints(cls)
    derived = values.keys() - OURS_BY_DEFAULT
    for key, value in stage.trl.items():
        if key in derived:
            raise ValueError(f"trl.{key} is derived from the {stage.kind} stage's own settings; set those instead")
        if key not in hints:
            settable = hints.keys() - derived - owned.OWNED.keys() - owned.REFUSED.keys()
            raise ValueError(unknown_key(f"trl.{key}", key, settable))
        registry.typed(hints[key], value, f"trl.{key}")
    arguments = cls(**{**values, **stage.trl})
    _check_optimizer(arguments)
    precision.keep_float32(arguments, config.model)
    return arguments


def _check_optimizer(arguments: TrainingArguments) -> None:
    """Refuse values that the optimizer or the schedule does not take, by making both for one weight.

    Raises:
        ValueError: with the settings, and what the optimizer or the schedule says.
    """
    settings, schedule = "lr_scheduler_kwargs", cast(dict[str, Any], arguments.lr_scheduler_kwargs or {})
    try:
        optimizer: Any = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
        get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            num_warmup_steps=arguments.get_warmup_steps(arguments.max_steps),
            num_training_steps=arguments.max_steps,
            scheduler_specific_kwargs=dict(schedule),
        )
        settings = "adam_beta1, trl.adam_beta2, trl.adam_epsilon or trl.optim_args"
        if not any(name in arguments.optim for name in ("galore", "apollo", "lomo")):  # these need the model
            kind, values = Trainer.get_optimizer_cls_and_kwargs(arguments)
            kind([nn.Parameter(torch.zeros(1))], **values)
    except (TypeError, ValueError) as e:
        raise ValueError(f"trl.{settings}: {e}") from e
