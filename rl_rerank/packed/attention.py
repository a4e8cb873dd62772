"""Attention over packed rows for any transformers model with selectable attention.

`model(..., packed=layout)` declares a packed row; transformers passes the argument on to every layer. Without it the
attention is transformers' own. Beside it, `prefix` receives the keys and values of every layer and returns those that
are attended to, which is how they leave one forward and enter another. The attention that the model was loaded with
determines the kernel: PyTorch's SDPA in parts, on a CPU by `tree_attention` and elsewhere by `segment_attention`, or
one of `kernels`.
"""

# Shape legend: H query heads, K key heads, T tokens of the row, Q computed tokens of it, D size of a head.

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rl_rerank.packed import kernels
from rl_rerank.packed.layout import Layout
from rl_rerank.packed.segment_attention import segment_attention
from rl_rerank.packed.tree_attention import tree_attention

KeysValues: TypeAlias = "Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]"
"""(module of attention, key, value [1, K, Q, D] of the tokens that are computed) -> key and value [1, K, T, D]."""

NAMES = {
    "sdpa": "rl_rerank_packed",
    "eager": "rl_rerank_packed",
    "flash_attention_2": "rl_rerank_packed_varlen2",
    "flash_attention_3": "rl_rerank_packed_varlen3",
    "flex_attention": "rl_rerank_packed_blocks",
}
"""Attention that a model was loaded with -> the name of ours. SDPA replaces transformers' slow eager attention."""

DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""Names of the dropout of attention weights in configurations."""

SEEN_RIGHT = {"full_attention", "sliding_attention"}
"""Types of layers that this module knows."""


def refusal(model: Any) -> str | None:
    """Say why a packed row would be wrong for a transformers model; None if it is right."""
    config = model.config.get_text_config()
    if others := set(getattr(config, "layer_types", None) or ()) - SEEN_RIGHT:
        return f"it has layers of the type {', '.join(sorted(others))}, which see more than pairs of tokens"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not let its attention be chosen"
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        return "its attention has sinks"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention has soft-capped logits"
    if dropout := max(getattr(config, name, None) or 0.0 for name in DROPOUTS):
        return f"its attention has a dropout of {dropout}"
    if "mrope_section" in (getattr(config, "rope_parameters", None) or {}):
        return "its positions have several dimensions (M-RoPE)"
    known = (*NAMES, *NAMES.values())
    if config._attn_implementation not in known:
        return f"its attention implementation is {config._attn_implementation!r}; with 'sdpa' rows could be packed"
    return None


def install(model: nn.Module) -> None:
    """Make a transformers model use this module's attention, for rows of either kind."""
    config: Any = model.config
    loaded = config.get_text_config()._attn_implementation
    if loaded in NAMES.values():
        return
    # sdpa and eager share one name, so the function registered under it must be the same for both, whichever comes
    # last.
    name, stock = NAMES[loaded], "sdpa" if loaded == "eager" else loaded
    AttentionInterface.register(name, functools.partial(attention, stock))
    # transformers looks masks up under the name of the attention, and makes none for a name it does not know: plain
    # rows would then attend to their padding, without any error.
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    model.set_attn_implementation(name)  # pyright: ignore[reportCallIssue]


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
    packed: Layout | None = None,
    prefix: KeysValues | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Compute a layer's attention; transformers calls this in every layer.

    Args:
        stock: the attention that the model was loaded with, sdpa for eager.
        query: [N, H, Q, D]; key and value [N, K, Q, D]; N is 1 in a packed row.
        sliding_window: tokens that a query sees, itself among them.

    Returns:
        [N, Q, H, D], and no attention weights.
    """
    if packed is None:
        own: Any = ALL_ATTENTION_FUNCTIONS[stock]
        given = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window, **kwargs}
        return own(module, query, key, value, attention_mask, **given)
    # A packed row ignores the mask: the layout says everything, and callers pass a dummy of four dimensions, which
    # transformers hands through as it is instead of building one over the row.
    asked: dict[str, Any] = {"scaling": scaling, "window": sliding_window}
    if stock != kernels.FLEX:
        # Under autocast the cosines of RoPE, in float32, promote query and key, and kernels take one type. Values have
        # the type that arithmetic is in.
        query, key = query.to(value.dtype), key.to(value.dtype)
    if prefix is not None:
        key, value = prefix(module, key, value)
    rows = (query, key, value, packed)
    if stock == kernels.FLEX:
        return kernels.flex(*rows, **asked), None
    if stock in kernels.VARLEN:
        return kernels.varlen(stock, *rows, **asked), None
    if query.device.type == "cpu":
        return tree_attention(*rows, **asked), None
    return segment_attention(*rows, **asked), None
