"""Attention over a packed row by PyTorch's SDPA, one call a segment; the way for devices without another kernel."""

# Shape legend: H query heads, K key heads, T tokens of the row, Q computed tokens of it, D size of a head.

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_rerank.packed.layout import Layout

QUERIES = 1024
"""Queries of a call with a mask, which bounds the mask."""


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scaling: float | None, window: int | None
) -> Tensor:
    """Attend from each segment to its ancestors, whose keys are gathered, and to itself.

    Args:
        query: [1, H, Q, D]; key and value [1, K, T, D].
        window: number of tokens that a query sees, itself among them; None for all.

    Returns:
        [1, Q, H, D].
    """
    found: list[Tensor] = []
    for number, segment in layout.computed:
        path = [*layout.ancestors(number), segment]
        keys, values = (torch.cat([x[:, :, s.start : s.stop] for s in path], dim=2) for x in (key, value))
        own = query[:, :, segment.start - layout.given : segment.stop - layout.given]
        if len(path) == 1 and (window is None or segment.length <= window):
            # Without a mask SDPA can choose its flash kernel. `is_causal` aligns to the top left, so it is right for a
            # square only.
            enable_gqa = query.size(1) != key.size(1)
            found.append(_sdpa(own, keys, values, is_causal=True, scale=scaling, enable_gqa=enable_gqa))
            continue
        # With a mask and groups of heads at once, SDPA would take its kernel that materialises the scores.
        repeats = query.size(1) // key.size(1)
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
        for first in range(0, segment.length, QUERIES):
            last = min(first + QUERIES, segment.length)
            stop = segment.depth + last
            start = 0 if window is None else max(0, segment.depth + first - window + 1)
            mask = _mask(segment.depth + first, stop, start, window, query.device)
            some = (own[:, :, first:last], keys[:, :, start:stop], values[:, :, start:stop])
            found.append(_sdpa(*some, attn_mask=mask, scale=scaling))
    return torch.cat(found, dim=2).transpose(1, 2)


_sdpa = nn.functional.scaled_dot_product_attention


def _mask(first: int, stop: int, start: int, window: int | None, device: torch.device) -> Tensor:
    """[stop - first, stop - start], True where the query at a position sees the key at another."""
    # Every query sees itself: the softmax of an empty row would not be a number.
    apart = torch.arange(first, stop, device=device)[:, None] - torch.arange(start, stop, device=device)
    return apart >= 0 if window is None else (apart >= 0) & (apart < window)
