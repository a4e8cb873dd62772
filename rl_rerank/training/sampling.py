"""Sampling completions with transformers, each prompt computed once for its whole group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel


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

    The prompts are computed once; their key-value cache is then repeated for the group.

    Args:
        prompts: token ids, one entry a group.

    Returns:
        Token ids of len(prompts) * num_generations completions, each up to and with its end token.
    """
    device = model.device
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    inputs: dict[str, Any] = {}
    if width > 1:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        cache.batch_repeat_interleave(num_generations)
        inputs["past_key_values"] = cache
    output = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids.repeat_interleave(num_generations, dim=0),
        attention_mask=mask.repeat_interleave(num_generations, dim=0),
        generation_config=generation_config,
        **inputs,
    )
    return [_until_end(row, end_ids) for row in output[:, width:].tolist()]  # pyright: ignore[reportIndexIssue]


def _until_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in end_ids:
            return ids[: position + 1]
    return ids
