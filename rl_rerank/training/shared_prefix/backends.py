"""Ways to compute attention over rows of a prefix and its suffixes on a GPU, in one kernel for all parts.

`shared_attention` chooses them by the attention that a model was loaded with, and has the layout of rows:

    flash_attention_2, flash_attention_3   the variable-length kernel of the package of that name. Each suffix is a
        sequence of its own queries behind the keys of its prefix, which are gathered; windows and groups of heads are
        the kernel's.
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
    """Where the sequences of all rows lie in rows put behind one another, as the kernel wants them."""

    queries: Tensor
    """Places of the queries of all sequences, without padding."""
    keys: Tensor
    """Places of the keys of all sequences; a prefix comes up once for itself and once for each of its suffixes."""
    query_ends: Tensor
    """[S + 1] of int32, from 0: where each sequence ends in `queries`; `key_ends` in `keys`."""
    key_ends: Tensor
    longest_query: int
    longest_key: int


@functools.lru_cache(maxsize=4)
def sequences(prefixes: tuple[int, ...], suffixes: int, total: int, device: torch.device) -> Sequences:
    """The sequences of rows whose prefixes are padded on the right.

    Args:
        prefixes: tokens of each row's prefix.
        suffixes: G of every row.
        total: T.
    """
    longest = max(prefixes)
    length = (total - longest) // suffixes
    queries: list[range] = []
    keys: list[tuple[range, range]] = []
    for row, prefix in enumerate(prefixes):
        start = row * total
        behind = range(start, start + prefix)
        if prefix:
            queries.append(behind)
            keys.append((range(0), behind))
        for suffix in range(suffixes):
            first = start + longest + suffix * length
            queries.append(range(first, first + length))
            keys.append((behind, queries[-1]))

    def ends(lengths: list[int]) -> Tensor:
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
    """By the variable-length kernel of `implementation`.

    Args:
        query: [N, H, T, D]; key and value [N, K, T, D]. In half precision, as the kernel wants it.

    Returns:
        [N, T, H, D], 0 at padding.

    Raises:
        ImportError: by transformers, where the package is not installed.
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
    """The same with a kernel that is given: `flash_attn_varlen_func` or one with its arguments.

    Its queries are the last of the keys, as in flash-attn from 2.1 on.
    """
    rows, _, total, _ = query.shape
    found = sequences(prefixes, suffixes, total, query.device)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # [N*T, heads, D]
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
        # Tokens that a query sees before its own.
        window_size=(-1, -1) if window is None else (window - 1, 0),
    )
    output = output[0] if isinstance(output, tuple) else output
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
    """By FlexAttention, compiled on a GPU; on a CPU the uncompiled one, which has no backward.

    Args:
        query: [N, H, T, D]; key and value [N, K, T, D].

    Returns:
        [N, T, H, D].
    """
    mask = block_mask(prefixes, suffixes, query.size(2), window, query.device)
    run: Any = _compiled() if query.is_cuda else flex_attention
    output = run(query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.size(1) != key.size(1))
    return output.transpose(1, 2)


@functools.lru_cache(maxsize=4)
def block_mask(
    prefixes: tuple[int, ...], suffixes: int, total: int, window: int | None, device: torch.device
) -> BlockMask:
    """The pairs of one row that see each other: prefix and prefix, suffix and prefix, a suffix and itself."""
    longest = max(prefixes)
    length = (total - longest) // suffixes
    ends = torch.tensor(prefixes, device=device)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_prefix = key < ends[row]
        same = (query >= longest) & (key >= longest) & ((query - longest) // length == (key - longest) // length)
        apart = _position(query, ends[row], longest, length) - _position(key, ends[row], longest, length)
        seen = (in_prefix | same) & (apart >= 0)
        return seen if window is None else seen & (apart < window)

    return create_block_mask(sees, len(prefixes), None, total, total, device=device)


def _position(place: Tensor, end: Tensor, longest: int, length: int) -> Tensor:
    """Tokens before a place of a row, as if its suffix stood alone behind the prefix."""
    return torch.where(place < longest, place, end + (place - longest) % length)


@functools.cache
def _compiled() -> Any:
    # Lengths change from batch to batch: with static shapes each new one would be compiled anew.
    return torch.compile(flex_attention, dynamic=True)
