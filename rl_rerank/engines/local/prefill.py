"""One prefill per prompt, shared by all its samples.

Shapes: P prompts, B rows, L padded length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rl_rerank.engines.local import pyramid

SHAREABLE = (DynamicLayer, DynamicSlidingWindowLayer)
"""Cache layers with keys and values only."""


def prefilled(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, rows: Sequence[int]
) -> Cache | None:
    """Prefill the cache with which `model.generate` starts at the last tokens of its prompts.

    Args:
        input_ids: (P, L) left-padded, as are attention_mask and position_ids.
        rows: prompt index of each of B rows.

    Returns:
        The cache of B rows. None for one-token prompts, and for models whose state cannot be copied between rows,
        where it saves nothing, or who keep more than keys and values, as a pyramid does.
    """
    if input_ids.shape[1] == 1 or pyramid.of(model) is not None:
        return None
    output = model(
        input_ids=input_ids[:, :-1],
        attention_mask=attention_mask[:, :-1],
        position_ids=position_ids[:, :-1],
        use_cache=True,
        logits_to_keep=1,
    )
    cache = getattr(output, "past_key_values", None)
    if not isinstance(cache, Cache) or any(type(layer) not in SHAREABLE for layer in cache.layers):
        return None
    cache.batch_select_indices(input_ids.new_tensor(rows))
    return cache


def left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pad to (input_ids, attention_mask, position_ids), each (B, L); all rows end in the last column.

    Rows are padded by length, never by the pad id, which may occur inside a row.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask, (mask.cumsum(dim=1) - 1).clamp(min=0)
