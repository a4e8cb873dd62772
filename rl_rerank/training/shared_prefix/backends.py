"""Attention over rows of a prefix and its suffixes on a GPU, in one kernel for all parts.

`attention` chooses between them by the attention that a model was loaded with, and defines the layout of rows:

    flash_attention_2, flash_attention_3   the variable-length kernel of the package of that name. Each suffix is a
        sequence of its own queries behind the keys of its prefix, which are gathered; the kernel itself implements
        windows and groups of heads.
    flex_attention   one kernel over whole rows with a mask made of blocks; nothing is gathered or copied.
"""

# Shape legend: N rows, H query heads, K key heads, G suffixes of a row, C tokens of a suffix, P tokens of the longest
# prefix, T = P + G*C, D size of a head, S sequences (a row's prefix, or a suffix).

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.modeling_flash_attention_utils import lazy_import_flash_attention

VARLEN = ("flash_attention_2", "flash_attention_3")
FLEX = "flex_attention"


class Sequences(NamedTuple):
    """The places of all rows' sequences in the concatenated rows, in the form that the kernel takes."""

    queries: Tensor
    """Places of the queries of all sequences, without padding."""
    keys: Tensor
    """Places of the keys of all sequences; a prefix occurs once for itself and once for each of its suffixes."""
    query_ends: Tensor
    """[S + 1] of int32, from 0: the end of each sequence in `queries`; `key_ends` likewise in `keys`."""
    key_ends: Tensor
    longest_query: int
    longest_key: int


# All layers of a forward have the same layout, and checkpointed layers meet it again in the backward. Without the
# cache each layer would loop over tokens in Python and wait for copies to the GPU.
@functools.lru_cache(maxsize=4)
def sequences(prefixes: tuple[int, ...], suffixes: int, total: int, device: torch.device) -> Sequences:
    """Lay out the sequences of rows whose prefixes are padded on the right.

    Args:
        prefixes: number of tokens of each row's prefix.
        suffixes: G, the same in every row.
        total: T.
    """
    longest = max(prefixes)
    length = (total - longest) // suffixes
    queries: list[range] = []
    keys: list[tuple[range, range]] = []
    for row, prefix in enumerate(prefixes):
        start = row * total
        # Padding behind a prefix is in no sequence: it is neither computed nor seen.
        behind = range(start, start + prefix)
        if prefix:
            queries.append(behind)
            keys.append((range(0), behind))
        for suffix in range(suffixes):
            first = start + longest + suffix * length
            queries.append(range(first, first + length))
            keys.append((behind, queries[-1]))

    def ends(lengths: list[int]) -> Tensor:
        # `cumsum` of integers gives int64, and the kernel takes these ends as int32 only.
        return torch.tensor([0, *lengths], device=device).cumsum(0).int()

    query_lengths, key_lengths = [len(q) for q in queries], [len(before) + len(own) for before, own in keys]
    return Sequences(
        torch.tensor([place for q in queries for place in q], device=device),
        torch.tensor([place for pair in keys for part in pair for place in part], device=device),
        ends(query_lengths),
        ends(key_lengths),
        max(query_lengths),
        max(key_lengths),
    )


def varlen(
    implementation: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefixes: tuple[int, ...],
    suffixes: int,
    *,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend by the variable-length kernel of `implementation`.

    Args:
        query: [N, H, T, D]; key and value [N, K, T, D]. In half precision, the only one that the kernel takes.

    Returns:
        [N, T, H, D], 0 at padding.

    Raises:
        ImportError: from transformers, if the package is not installed.
    """
    (_, kernel, *_), _ = lazy_import_flash_attention(implementation)
    return run_varlen(kernel, query, key, value, prefixes, suffixes, scaling=scaling, window=window)


def run_varlen(
    kernel: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefixes: tuple[int, ...],
    suffixes: int,
    *,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend by a given kernel: `flash_attn_varlen_func` or one with its arguments.

    The kernel must place queries at the last of the keys, as flash-attn does from 2.1 on.
    """
    rows, _, total, _ = query.shape
    found = sequences(prefixes, suffixes, total, query.device)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # [N*T, heads, D]
    # Gathering gives a prefix's keys and values to every suffix; in the backward it adds their gradients up, which is
    # what the one shared prefix needs.
    output = kernel(
        q.index_select(0, found.queries),
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
    # 0 at padding rather than uninitialised memory: the layers behind compute on padding too, and a nan there would
    # spread through the gradients of the shared weights.
    return torch.zeros_like(q).index_copy(0, found.queries, output).unflatten(0, (rows, total))


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefixes: tuple[int, ...],
    suffixes: int,
    *,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend by FlexAttention, compiled on a GPU and uncompiled on a CPU, where it has no backward.

    Args:
        query: [N, H, T, D]; key and value [N, K, T, D].

    Returns:
        [N, T, H, D].
    """
    mask = block_mask(prefixes, suffixes, query.size(2), window, query.device)
    # Uncompiled, FlexAttention computes the whole matrix of scores and masks it: that is correct and saves nothing.
    run: Any = _compiled() if query.is_cuda else flex_attention
    output = run(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.size(1) != key.size(1))
    return output.transpose(1, 2)


# Cached as `sequences` is: making it evaluates the rule for every pair of places.
@functools.lru_cache(maxsize=4)
def block_mask(
    prefixes: tuple[int, ...], suffixes: int, total: int, window: int | None, device: torch.device
) -> BlockMask:
    """Mark the pairs of a row that see each other: prefix and prefix, suffix and prefix, a suffix and itself."""
    longest = max(prefixes)
    length = (total - longest) // suffixes
    ends = torch.tensor(prefixes, device=device)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # This runs under vmap and in a compiled kernel, on one pair at a time as tensors: a Python `if` on them would
        # fail. The two comparisons with `longest` are needed because floor division numbers the places before it -1 and
        # below, which would make groups of the padding.
        in_prefix = key < ends[row]
        same = (query >= longest) & (key >= longest) & ((query - longest) // length == (key - longest) // length)
        # Places in the row say nothing about order or distance: the second suffix lies far behind the prefix that it
        # directly follows. Causality and the window count positions as the model does.
        apart = _position(query, ends[row], longest, length) - _position(key, ends[row], longest, length)
        seen = (in_prefix | same) & (apart >= 0)
        return seen if window is None else seen & (apart < window)

    return create_block_mask(sees, len(prefixes), None, total, total, device=device)


def _position(place: Tensor, end: Tensor, longest: int, length: int) -> Tensor:
    """Count the tokens before a place of a row, as if its suffix stood alone behind the prefix."""
    return torch.where(place < longest, place, end + (place - longest) % length)


@functools.cache
def _compiled() -> Any:
    # Lengths change from batch to batch: with static shapes each new one would be compiled anew.
    return torch.compile(flex_attention, dynamic=True)
