"""Saving the trained model of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import get_peft_model
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rl_rerank.config import Config, ModelConfig
from rl_rerank.engines.local import adapters, checkpoint
from rl_rerank.engines.local.processor import save_processor
from rl_rerank.io.files import replacing_folder
from rl_rerank.training.loop.arguments import peft_config
from rl_rerank.training.loop.checkpoints import written_checkpoint
from rl_rerank.training.loop.watch import UnhealthyError, broken_weights, describe, require_weights

if TYPE_CHECKING:
    from rl_rerank.stages.training import TrainingStage


def save_trained(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    stage: TrainingStage,
    model: ModelConfig,
    start: Path,
) -> None:
    """Save a plain model folder, adapters merged, whole or not at all.

    Every process must call it: weights sharded by ZeRO are gathered, and the first process writes them.

    Args:
        start: the folder of the stage's starting model.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return
    # Into a fresh model and not from the trained one, whose weights ZeRO-3 holds in pieces that cannot be merged; and a
    # whole one, though transformers shards what it reads while it knows of ZeRO-3.
    unset_hf_deepspeed_config()
    whole: Any = checkpoint.load_model(start, model.dtype, model.trust_remote_code)
    adapter = peft_config(stage.lora)
    if adapter is not None:
        whole = get_peft_model(whole, adapter)
    whole.load_state_dict(weights)
    if adapter is not None:
        whole = adapters.merge(whole, str(folder))
    require_weights(whole, f"{folder}, of type {model.dtype},")
    with replacing_folder(folder) as partial:
        whole.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        save_processor(start, partial, model.trust_remote_code)


class SavesProcessor(TrainerCallback):
    """Puts the processor of a model that sees beside the model in every checkpoint.

    Args:
        start: the folder of the stage's starting model.
    """

    def __init__(self, start: Path, trust_remote_code: bool) -> None:
        self.start = start
        self.trust_remote_code = trust_remote_code

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            save_processor(self.start, written_checkpoint(args, state), self.trust_remote_code)


def keep_checkpoint(config: Config, ref: str, folder: Path) -> None:
    """Save the model of a checkpoint, NAME@STEP, as `save_trained` would have at its step.

    Raises:
        UnhealthyError: if it has weights that are not finite.
    """
    source, trust = checkpoint.locate(config, ref), config.model.trust_remote_code
    model = checkpoint.load_model(source, config.model.dtype, trust)
    if names := broken_weights(model):
        raise UnhealthyError(
            f"{source} cannot be resumed: it has {describe(names)}; remove it, and the same command goes on from an "
            "earlier checkpoint, if there is one"
        )
    with replacing_folder(folder) as partial:
        model.save_pretrained(partial)
        checkpoint.load_tokenizer(source, trust).save_pretrained(partial)
        save_processor(source, partial, trust)
