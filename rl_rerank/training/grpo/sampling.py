"""Sampling completions with transformers, with one prefill per group."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation

from rl_rerank.engines.decode import until_stop
from rl_rerank.engines.local.prefill import left_padded, prefilled
from rl_rerank.training.loop.watch import FiniteLogits, require_logits


@torch.no_grad()
def sample_groups(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    num_generations: int,
    generation_config: GenerationConfig,
    pad_id: int,
    end_ids: Sequence[int],
    processor: LogitsProcessor | None = None,
) -> list[list[int]]:
    """Sample `num_generations` completions of each prompt; a prompt's completions are adjacent.

    Args:
        prompts: token ids, one entry per group.
        processor: sees the logits of every token before it is sampled.

    Returns:
        Token ids of len(prompts) * num_generations completions, each up to and including its end token.
    """
    ids, mask, positions = left_padded(prompts, pad_id, model.device)
    rows = [number for number in range(len(prompts)) for _ in range(num_generations)]
    cache = prefilled(model, ids, mask, positions, rows)
    output = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids[rows],
        attention_mask=mask[rows],
        past_key_values=cache,
        generation_config=generation_config,
        logits_processor=None if processor is None else LogitsProcessorList([processor]),
    )
    answers = output[:, ids.shape[1] :].tolist()  # pyright: ignore[reportIndexIssue]
    return [list(until_stop(answer, end_ids)) for answer in answers]


def sample_with(trainer: Any, prompts: Sequence[Sequence[int]], num_generations: int) -> list[list[int]]:
    """Call `sample_groups` with the policy of a trl.GRPOTrainer; weights sharded by ZeRO-3 are gathered.

    Raises:
        UnhealthyError: if the policy's logits are not finite.
    """
    args, seen = trainer.args, FiniteLogits()
    with unwrap_model_for_generation(
        trainer.model_wrapped,
        trainer.accelerator,
        gather_deepspeed3_params=args.ds3_gather_for_generation,
        generation_kwargs=trainer.generation_kwargs,
        gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
    ) as unwrapped:
        model: Any = unwrapped
        was_training = model.training
        model.eval()
        with disable_gradient_checkpointing(model, args.gradient_checkpointing_kwargs):
            completions = sample_groups(
                model,
                prompts,
                num_generations=num_generations,
                generation_config=trainer.generation_config,
                pad_id=trainer._tokenizer.pad_token_id,
                end_ids=trainer.eos_token_ids,
                processor=seen,
            )
        model.train(was_training)
    require_logits(trainer, seen)
    return completions
