"""Sampling completions with transformers, each prompt computed once for its whole group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from rl_rerank.engines.local.prefill import prefilled


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
    device = model.device
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    rows = [number for number in range(len(prompts)) for _ in range(num_generations)]
    cache = prefilled(model, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), rows)
    output = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids[rows],
        attention_mask=mask[rows],
        past_key_values=cache,
        generation_config=generation_config,
    )
    return [_until_end(row, end_ids) for row in output[:, width:].tolist()]  # pyright: ignore[reportIndexIssue]


def _until_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in end_ids:
            return ids[: position + 1]
    return ids
