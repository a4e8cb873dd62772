"""Attention over a packed row on a CPU, in parts that need no mask and copy no keys.

The pairs of tokens that see each other fall into triangles, a segment and itself, and rectangles, a segment's keys and
the queries of the rest of its subtree, which are contiguous. PyTorch's flash kernel computes each part with its
log-sum-exp, and parts of one query are combined by these. In the backward the kernel receives the combined output and
log-sum-exp: its formulas then give each part's share of the gradients, exactly as they do for its own blocks.
"""

# Shape legend: H query heads, K key heads, T tokens of the row, Q computed tokens of it, D size of a head.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rl_rerank.packed.layout import Layout, Segment

SMALL = 64
"""Tokens. Consecutive segments of up to this many in all are one part with a mask: a call costs as much as they do."""

QUERIES = 512
"""Queries of a part with a mask, which bounds the mask."""

HIDDEN = -1e30
"""In place of minus infinity, in masks: a query that sees no key of a part then has a weight of 0 in it, not NaN."""


class Part(NamedTuple):
    """Queries and keys that are attended together."""

    queries: slice
    """Places among the computed tokens."""
    keys: slice
    """Places in the row."""
    is_causal: bool
    """Whether these are a segment and itself, and the kernel masks it."""
    mask: Tensor | None
    """[queries, keys], added to the scores."""


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scaling: float | None, window: int | None
) -> Tensor:
    """Attend by parts.

    Args:
        query: [1, H, Q, D]; key and value [1, K, T, D], on a CPU.
        window: number of tokens that a query sees, itself among them; None for all.

    Returns:
        [1, Q, H, D].
    """
    if window is not None and window >= layout.longest:
        window = None
    parts = layout.once(("parts", window), lambda layout: _parts(layout, window))
    output: Tensor = _TreeAttention.apply(query, key, value, parts, scaling)  # pyright: ignore[reportAssignmentType]
    return output.transpose(1, 2)


def _parts(layout: Layout, window: int | None) -> list[Part]:
    """Divide the pairs that see each other into parts, each pair into one."""
    if window is None:
        found = _whole(layout)
    else:
        found = [part for number, _ in layout.computed for part in _windowed(layout, number, window)]
    given = layout.given
    return [part._replace(queries=slice(part.queries.start - given, part.queries.stop - given)) for part in found]


def _whole(layout: Layout) -> list[Part]:
    """Divide the pairs without a window; queries by their places in the row."""
    found: list[Part] = []
    if layout.given:
        found.append(Part(slice(layout.given, layout.length), slice(0, layout.given), is_causal=False, mask=None))
    for group in _small_groups(layout):
        start, stop = group[0].start, group[-1].stop
        own = slice(start, stop)
        found.append(Part(own, own, is_causal=len(group) == 1, mask=None if len(group) == 1 else _mask(layout, own)))
        # The group's own pairs are done; what of a segment's subtree lies behind it is a rectangle.
        found += [
            Part(slice(stop, segment.end), slice(segment.start, segment.stop), is_causal=False, mask=None)
            for segment in group
            if segment.end > stop
        ]
    return found


def _small_groups(layout: Layout) -> list[list[Segment]]:
    """Group consecutive computed segments of up to SMALL tokens in all; a longer segment is alone."""
    found: list[list[Segment]] = []
    for _, segment in layout.computed:
        if found and segment.stop - found[-1][0].start <= SMALL:
            found[-1].append(segment)
        else:
            found.append([segment])
    return found


def _mask(layout: Layout, own: slice) -> Tensor:
    places = np.arange(own.start, own.stop)
    sees = (places[:, None] >= places) & (places[:, None] < layout.ends[own])
    return torch.from_numpy(np.where(sees, np.float32(0), np.float32(HIDDEN)))


def _windowed(layout: Layout, number: int, window: int) -> list[Part]:
    """Divide what the queries of one segment see through a window; queries by their places in the row."""
    segment = layout.segments[number]
    found: list[Part] = []
    for other in (*layout.ancestors(number), segment):
        for first in range(0, segment.length, QUERIES):
            last = min(first + QUERIES, segment.length)
            start, stop = segment.depth + first, segment.depth + last  # positions
            # Keys by position: those that the first query or a later one sees.
            low = max(other.depth, start - window + 1)
            high = min(other.depth + other.length, stop)
            if low >= high:
                continue
            queries = slice(segment.start + first, segment.start + last)
            keys = slice(other.start + low - other.depth, other.start + high - other.depth)
            apart = np.arange(start, stop)[:, None] - np.arange(low, high)
            sees = (apart >= 0) & (apart < window)
            mask = None if sees.all() else torch.from_numpy(np.where(sees, np.float32(0), np.float32(HIDDEN)))
            found.append(Part(queries, keys, is_causal=False, mask=mask))
    return found


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: list[Part], scaling: float | None
    ) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        # Sums over parts are in float32 whatever the inputs are.
        output = torch.zeros(query.shape, dtype=torch.float32)
        normaliser = torch.full(query.shape[:3], -torch.inf)  # [1, H, Q]
        for part in parts:
            of, mask = _cut(part, query, key, value)
            found, own = flash(*of, 0.0, part.is_causal, attn_mask=mask, scale=scaling)
            before = normaliser[:, :, part.queries]
            both = torch.logaddexp(before, own)
            into = output[:, :, part.queries]
            into.mul_((before - both).exp_().unsqueeze(-1)).addcmul_(found.float(), (own - both).exp_().unsqueeze(-1))
            normaliser[:, :, part.queries] = both
        result = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, normaliser)
        ctx.parts, ctx.scaling = parts, scaling
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        *reduced, normaliser = ctx.saved_tensors
        # The kernel's backward takes five times as long in bfloat16 as in float32.
        query, key, value, output = (x.float() for x in reduced)
        grad = grad.float()
        sums = [torch.zeros_like(x) for x in (query, key, value)]
        for part in ctx.parts:
            (q, k, v), mask = _cut(part, query, key, value)
            rows = (grad[:, :, part.queries], q, k, v, output[:, :, part.queries], normaliser[:, :, part.queries])
            found = flash(*rows, 0.0, part.is_causal, attn_mask=mask, scale=ctx.scaling)
            for into, own, where in zip(sums, found, (part.queries, part.keys, part.keys), strict=True):
                into[:, :, where] += own
        found = (own.to(x.dtype) for own, x in zip(sums, reduced[:3], strict=True))
        return (*found, None, None)  # pyright: ignore[reportReturnType]


def _cut(part: Part, query: Tensor, key: Tensor, value: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
    mask = None if part.mask is None else part.mask.to(query.dtype)
    return (query[:, :, part.queries], key[:, :, part.keys], value[:, :, part.keys]), mask
