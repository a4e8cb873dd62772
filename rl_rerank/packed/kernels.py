"""Attention over packed rows on a GPU, in one kernel for all segments.

flash_attention_2, flash_attention_3   the variable-length kernel of the package of that name. Each segment is a
    sequence of its own queries behind the keys of its ancestors, which are gathered; the kernel itself implements
    windows and groups of heads.
flex_attention   one kernel over the whole row with a mask made of blocks; nothing is gathered or copied.
"""

# Shape legend: H query heads, K key heads, T tokens of the row, Q computed tokens of it, D size of a head, S computed
# segments, B blocks of the row.

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.modeling_flash_attention_utils import lazy_import_flash_attention

from rl_rerank.packed.layout import Layout

VARLEN = ("flash_attention_2", "flash_attention_3")
FLEX = "flex_attention"
BLOCK = 128
"""Tokens of a block of FlexAttention's mask."""


class Sequences(NamedTuple):
    """The computed segments of a row in the form that the variable-length kernel takes."""

    keys: Tensor
    """Places of the keys of these segments: for each, those of its ancestors and its own."""
    query_ends: Tensor
    """[S + 1] of int32, from 0: the end of each segment among the queries; `key_ends` likewise among `keys`."""
    key_ends: Tensor
    longest_query: int
    longest_key: int


def sequences(layout: Layout, device: torch.device) -> Sequences:
    """Lay out the computed segments of a row."""
    paths = [[*layout.ancestors(number), segment] for number, segment in layout.computed]
    keys = np.concatenate([np.arange(s.start, s.stop) for path in paths for s in path])
    query_lengths = [segment.length for _, segment in layout.computed]
    key_lengths = [sum(s.length for s in path) for path in paths]

    def ends(lengths: list[int]) -> Tensor:
        # `cumsum` of integers gives int64, and the kernel takes these ends as int32 only.
        return torch.tensor([0, *lengths], device=device).cumsum(0).int()

    places = torch.from_numpy(keys).to(device)
    return Sequences(places, ends(query_lengths), ends(key_lengths), max(query_lengths), max(key_lengths))


def varlen(
    implementation: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend by the variable-length kernel of `implementation`.

    Args:
        query: [1, H, Q, D]; key and value [1, K, T, D]. In half precision, the only one that the kernel takes.

    Returns:
        [1, Q, H, D].

    Raises:
        ImportError: from transformers, if the package is not installed.
    """
    (_, kernel, *_), _ = lazy_import_flash_attention(implementation)
    return run_varlen(kernel, query, key, value, layout, scaling=scaling, window=window)


def run_varlen(
    kernel: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend by a given kernel: `flash_attn_varlen_func` or one with its arguments.

    The kernel must place queries at the last of the keys, as flash-attn does from 2.1 on.
    """
    found = layout.once(("sequences", query.device), lambda layout: sequences(layout, query.device))
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [tokens, heads, D]
    # Gathering gives a segment's keys and values to all below it; in the backward it adds their gradients up.
    output = kernel(
        q.contiguous(),
        k.index_select(0, found.keys),
        v.index_select(0, found.keys),
        cu_seqlens_q=found.query_ends,
        cu_seqlens_k=found.key_ends,
        max_seqlen_q=found.longest_query,
        max_seqlen_k=found.longest_key,
        softmax_scale=scaling,
        causal=True,
        # The kernel counts the tokens before the query, where transformers counts the query too. -1 is no limit.
        window_size=(-1, -1) if window is None else (window - 1, 0),
    )
    # Some versions of flash-attn 3 return the log-sum-exp beside the output.
    output = output[0] if isinstance(output, tuple) else output
    return output.unsqueeze(0)


def flex(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scaling: float | None, window: int | None
) -> Tensor:
    """Attend by FlexAttention, compiled on a GPU and uncompiled on a CPU, where it has no backward.

    Args:
        query: [1, H, Q, D]; key and value [1, K, T, D].

    Returns:
        [1, Q, H, D].
    """
    mask = layout.once(("blocks", window, query.device), lambda layout: block_mask(layout, window, query.device))
    # Uncompiled, FlexAttention computes the whole matrix of scores and masks it: that is correct and saves nothing.
    run: Any = _compiled() if query.is_cuda else flex_attention
    output = run(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.size(1) != key.size(1))
    return output.transpose(1, 2)


def block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    """Mark the blocks of a row in which pairs see each other, and those in which all do.

    The rule k <= q < end[k] is decided for whole blocks from the least and the greatest end of a block's keys, so the
    memory is that of B x B blocks and never of T x T tokens.
    """
    total, given = layout.length, layout.given
    ends, positions = torch.from_numpy(layout.ends).to(device), torch.from_numpy(layout.positions).to(device)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # This runs under vmap and in a compiled kernel, on one pair at a time as tensors: a Python `if` on them would
        # fail. The window counts positions; places in the row say nothing about distance.
        place = query + given
        seen = (key <= place) & (place < ends[key])
        return seen if window is None else seen & (positions[place] - positions[key] < window)

    keys, queries = np.arange(0, total, BLOCK), np.arange(given, total, BLOCK)[:, None]  # places that blocks begin at
    least, greatest = np.minimum.reduceat(layout.ends, keys), np.maximum.reduceat(layout.ends, keys)
    behind = np.minimum(queries + BLOCK, total)  # places behind the blocks of queries
    # [query block, key block].
    some = (keys < behind) & (greatest > queries)
    whole = (keys + BLOCK <= queries) & (least >= behind)
    if window is not None:
        # Nothing is skipped by distance: a block is then computed and masked.
        whole &= False
    parts = [_blocks(where, device) for where in (some & ~whole, whole)]
    lengths = (total - given, total)
    return BlockMask.from_kv_blocks(*parts[0], *parts[1], BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=lengths)


def _blocks(where: np.ndarray[Any, Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """[1, 1, B'] number of key blocks of each query block, and [1, 1, B', B] their indices, first ones first."""
    indices = np.argsort(~where, axis=1, kind="stable").astype(np.int32)
    counts = where.sum(1).astype(np.int32)
    return torch.from_numpy(counts).to(device)[None, None], torch.from_numpy(indices).to(device)[None, None]


@functools.cache
def _compiled() -> Any:
    # Lengths change from batch to batch: with static shapes each new one would be compiled anew.
    return torch.compile(flex_attention, dynamic=True)
