"""Sampling completions with transformers, each prompt computed once for its whole group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from rl_rerank.engines.decode import until_stop
from rl_rerank.engines.local.prefill import left_padded, prefilled


@torch.no_grad()
def sample_groups(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    num_generations: int,
    generation_config: GenerationConfig,
    pad_id: int,
    end_ids: Sequence[int],
) -> list[list[int]]:
    """`num_generations` completions of each prompt, a prompt's completions adjacent.

    Args:
        prompts: token ids, one entry a group.

    Returns:
        Token ids of len(prompts) * num_generations completions, each up to and with its end token.
    """
    ids, mask, positions = left_padded(prompts, pad_id, model.device)
    rows = [number for number in range(len(prompts)) for _ in range(num_generations)]
    cache = prefilled(model, ids, mask, positions, rows)
    output = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids[rows],
        attention_mask=mask[rows],
        past_key_values=cache,
        generation_config=generation_config,
    )
    answers = output[:, ids.shape[1] :].tolist()  # pyright: ignore[reportIndexIssue]
    return [list(until_stop(answer, end_ids)) for answer in answers]
