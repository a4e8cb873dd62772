"""Attention over rows in which several suffixes share one prefix, for any transformers model with selectable attention.

The attention that the model was loaded with determines the kernel: PyTorch's SDPA in parts, here, which runs anywhere,
or one of `backends`.

A row is [prefix, suffix_1, ..., suffix_G]. Every suffix attends to the prefix and to itself, as if it stood alone
behind it; in layers with a sliding window, to the part of them inside the window. The parts are computed separately,
so pairs that do not see each other cost nothing, and no mask over the whole row is ever built.

`model(..., shared=Shared(...))` declares rows of this kind; transformers passes the argument on to every layer. Without
it the attention is transformers' own.
"""

# Shape legend: N rows, H query heads, K key heads, G suffixes of a row, C tokens of a suffix, P tokens of the longest
# prefix, T = P + G*C, D size of a head.

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import get_target_dtype
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rl_rerank.training.shared_prefix import backends

NAMES = {
    "sdpa": "rl_rerank_shared",
    "eager": "rl_rerank_shared",
    "flash_attention_2": "rl_rerank_shared_varlen2",
    "flash_attention_3": "rl_rerank_shared_varlen3",
    "flex_attention": "rl_rerank_shared_blocks",
}
"""Attention that a model was loaded with -> the name of ours. SDPA replaces transformers' slow eager attention."""


class Shared(NamedTuple):
    """The layout of rows."""

    prefixes: tuple[int, ...]
    """The number of tokens of each row's prefix; shorter ones are padded on the right to the longest."""
    suffixes: int
    """G, the number of suffixes of every row, all of one length."""


def install(model: nn.Module) -> None:
    """Make the model use this module's attention, for rows of either kind."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    loaded = base.config.get_text_config()._attn_implementation
    if loaded in NAMES.values():
        return
    # sdpa and eager share one name, so the function registered under it must be the same for both, whichever comes
    # last.
    name, stock = NAMES[loaded], "sdpa" if loaded == "eager" else loaded
    AttentionInterface.register(name, functools.partial(attention, stock))
    # transformers looks masks up under the name of the attention, and makes none for a name it does not know: plain
    # rows would then attend to their padding, without any error.
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    base.set_attn_implementation(name)


def attention(
    stock: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    shared: Shared | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Compute a layer's attention; transformers calls this in every layer.

    Args:
        stock: the attention that the model was loaded with, sdpa for eager.
        query: [N, H, T, D]; key and value [N, K, T, D].
        sliding_window: tokens that a query sees, itself among them.

    Returns:
        [N, T, H, D], and no attention weights.
    """
    if shared is None:
        own: Any = ALL_ATTENTION_FUNCTIONS[stock]
        given = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window, **kwargs}
        return own(module, query, key, value, attention_mask, **given)
    # Shared rows ignore the mask: the layout says everything, and callers pass a dummy of four dimensions, which
    # transformers hands through as it is instead of building one over the row.
    layout = (query, key, value, shared.prefixes, shared.suffixes)
    if stock in backends.VARLEN:
        # Under autocast the cosines of RoPE, in float32, promote query and key; the kernel takes one half precision.
        half = get_target_dtype(query, module) or query.dtype
        layout = (query.to(half), key.to(half), value.to(half), shared.prefixes, shared.suffixes)
        return backends.varlen(stock, *layout, scaling=scaling, window=sliding_window), None
    if stock == backends.FLEX:
        return backends.flex(*layout, scaling=scaling, window=sliding_window), None
    return by_parts(query, key, value, shared, _Attend(dropout, scaling, sliding_window)), None


def by_parts(query: Tensor, key: Tensor, value: Tensor, shared: Shared, attend: _Attend) -> Tensor:
    """Attend within prefixes, and from each row's suffixes to a copy of its prefix and themselves. [N, T, H, D]."""
    longest = max(shared.prefixes)
    # Prefixes are padded on the right and causal, so no token of theirs sees padding; the output at padding is
    # meaningless, and `_behind` keeps it from the suffixes. Prompts of one token have no prefix at all.
    parts = [attend(query[:, :, :longest], key[:, :, :longest], value[:, :, :longest])] if longest else []
    # Row by row, because prefixes differ in length and a common length would need a mask again. The G suffixes are the
    # batch of the call.
    rows = [
        attend(_apart(query, row, longest, shared), *(_behind(x, row, longest, length, shared) for x in (key, value)))
        for row, length in enumerate(shared.prefixes)
    ]
    # [G, H, C, D] of every row -> [N, H, G*C, D]
    parts.append(torch.stack([part.transpose(0, 1).flatten(1, 2) for part in rows]))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


class _Attend(NamedTuple):
    """Attention of Q queries that stand at the last Q of L places."""

    dropout: float
    scaling: float | None
    window: int | None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        queries, keys = query.size(2), key.size(2)
        # PyTorch aligns `is_causal` to the top left: with fewer queries than keys the first query would see the first
        # key only, though it stands behind the whole prefix. Only the square case can go without a mask, and only
        # without one can SDPA choose its flash kernel. A window of at least L cuts nothing off.
        is_square = queries == keys and (self.window is None or keys <= self.window)
        return nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if is_square else _mask(queries, keys, self.window, query.device),
            dropout_p=self.dropout,
            is_causal=is_square,
            scale=self.scaling,
            enable_gqa=query.size(1) != key.size(1),
        )


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """[Q, L], True where the query, one of the last, may attend to the key."""
    # The shift by keys - queries aligns the diagonal to the bottom right. Every query sees itself, so no row of the
    # mask is empty, whose softmax would not be a number.
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if window is None else mask.triu(keys - queries - window + 1)


def _apart(x: Tensor, row: int, longest: int, shared: Shared) -> Tensor:
    """[G, heads, C, D]: the row's suffixes."""
    return x[row, :, longest:].unflatten(1, (shared.suffixes, -1)).transpose(0, 1)


def _behind(x: Tensor, row: int, longest: int, length: int, shared: Shared) -> Tensor:
    """[G, heads, length + C, D]: each of the row's suffixes behind its prefix."""
    # Cut to the row's own length: behind its padding, suffixes would attend to it. The gradient of `expand` is the sum
    # over the G suffixes, as the one prefix needs it.
    prefix = x[row, :, :length].expand(shared.suffixes, -1, -1, -1)
    return torch.cat([prefix, _apart(x, row, longest, shared)], dim=2)
