"""A pyramid: a causal model whose lower layers see one message of the prompt alone, and whose upper layers see all.

Pyramid-ERNIE, Zou et al. 2021, https://arxiv.org/abs/2105.11108, encodes query and summary apart in its lower layers
and together in its upper ones. Here the prompt's messages are the blocks: query and document each have one of their own
(wording `pointwise_apart`). Rotary positions are relative, so what the lower layers make of a message depends on its
own tokens alone: not on the query, nor on where the document stands. It can be kept for each document.

The blocks are read from the token ids: one control token, which no foreign text can hold after sanitising, begins every
message. A pyramid is a model folder whose config.json has the key `pyramid`. Its class has a name of its own, so that
programs that know nothing of the blocks refuse the folder instead of mixing them.
"""

# Shape legend: N rows, T tokens of a row, Q of them that are computed, H query heads, K key heads, D size of a head.

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from rl_rerank.packed import attention as packed_attention
from rl_rerank.packed.layout import Layout

KEY = "pyramid"
"""In config.json: `{lower_layers, boundary}`."""
NAME = "rl_rerank_pyramid"
"""Of the attention, in transformers' registry."""
CACHED = "rl_rerank_messages"
"""Attribute of a cache: [N, T], the numbers of its tokens' messages."""


class Pyramid(NamedTuple):
    """What makes a model a pyramid."""

    lower_layers: int
    """Layers from the bottom whose tokens see their own message alone."""
    boundary: int
    """Id of the token with which every message begins."""


def of(model: PreTrainedModel) -> Pyramid | None:
    """Return a model's blocks; None if it is no pyramid."""
    found: Mapping[str, int] | None = getattr(model.config, KEY, None)
    return None if found is None else Pyramid(**found)


def is_folder(folder: Path) -> bool:
    """Whether a model folder holds a pyramid."""
    return KEY in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def make(model: PreTrainedModel, upper_share: float, boundary: int) -> Pyramid:
    """Turn a model into a pyramid, weights as they are.

    Args:
        upper_share: share of the layers that see the whole prompt, rounded up to whole layers.

    Raises:
        ValueError: if the model is a pyramid already, its attention cannot be given a mask of ours, or no layer would
            be a lower one.
    """
    if of(model) is not None:
        raise ValueError("the model is a pyramid already; make one of the model that it came from")
    if reason := packed_attention.refusal(model):
        raise ValueError(f"no pyramid can be made of {type(model).__name__}: {reason}")
    layers = model.config.get_text_config().num_hidden_layers
    upper = -int(-layers * upper_share // 1)
    if not 0 < upper < layers:
        raise ValueError(f"upper={upper_share} of {layers} layers are {upper}, which leaves no lower layer; give less")
    setattr(model.config, KEY, Pyramid(layers - upper, boundary)._asdict())
    install(model)
    return Pyramid(layers - upper, boundary)


def install(model: PreTrainedModel) -> None:
    """Let a loaded model attend as the key in its configuration says; does nothing for other models."""
    if of(model) is None:
        return
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(NAME)
    own = type(model)
    model.__class__ = type(f"Pyramid{own.__name__}", (own,), {"__module__": own.__module__})
    body: Any = model.base_model
    body.register_forward_pre_hook(_with_blocks, with_kwargs=True)


def numbers(ids: Tensor, boundary: int) -> Tensor:
    """Number the messages: [N, T], of the tokens [N, T]; what stands before the first one has the number 0."""
    return (ids == boundary).cumsum(-1)


def boundary(tokenizer: Any) -> int:
    """Find the control token that stands once before every message, and nowhere else.

    Raises:
        ValueError: if the chat template has none.
    """
    name = tokenizer.name_or_path or "the tokenizer"
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(f"{name!r} has no chat template, so nothing marks where a message begins")
    words = ("aardvark", "buffalo", "capybara")
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    gaps, rest = [], text
    for word in words:
        gap, found, rest = rest.partition(word)
        if not found:
            raise ValueError(f"the chat template of {name!r} does not show a conversation of three messages")
        gaps.append(gap)
    controls = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    inside = [tokenizer.encode(gap, add_special_tokens=False) for gap in (*gaps[1:], rest)]
    # From the back: of the two tokens around a message's role, the one that is nearest to its text.
    for token in reversed(inside[0]):
        if token in controls and all(ids.count(token) == 1 for ids in inside):
            return token
    raise ValueError(
        f"the chat template of {name!r} has no control token that stands once before every message, so a pyramid "
        "cannot tell them apart"
    )


def split(ids: Sequence[int], boundary: int) -> list[tuple[int, ...]]:
    """Cut a prompt's tokens into its messages."""
    starts = [0, *(place for place, token in enumerate(ids) if token == boundary and place > 0)]
    return [tuple(ids[start:stop]) for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True)]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    blocks: Tensor | None = None,
    below: int = 0,
    packed: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Compute a layer's attention: that of transformers, or of a packed row, after the blocks of lower layers.

    Args:
        query: [N, H, Q, D]; key and value [N, K, T, D], of which the last Q tokens are the query's.
        attention_mask: [N, 1, Q, T] of bool, True where a token is seen; None for a causal mask.
        blocks: [N, T], the number of each token's message; None where the caller runs parts of the model itself.
        below: number of lower layers.
    """
    layer: Any = module.layer_idx
    if blocks is not None and layer < below:
        asked, tokens = query.shape[2], key.shape[2]
        assert blocks.shape[1] == tokens
        device = query.device
        seen = torch.ones(asked, tokens, dtype=torch.bool, device=device).tril(tokens - asked)[None, None]
        if attention_mask is not None:
            seen = seen & (attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0)
        own = (blocks[:, tokens - asked :, None] == blocks[:, None, :])[:, None]
        # A token of padding sees itself, so that no row of the softmax is empty.
        itself = torch.eye(tokens, dtype=torch.bool, device=device)[tokens - asked :]
        attention_mask = (seen & own) | itself
    return packed_attention.attention("sdpa", module, query, key, value, attention_mask, packed=packed, **kwargs)


def _with_blocks(body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Number the messages of what a model is given, for its layers; a cache keeps the numbers of its tokens."""
    config: Any = body.config
    ids = args[0] if args else kwargs.get("input_ids")
    if ids is None:
        raise ValueError("a pyramid finds its messages by token ids, and was given embeddings")
    own = Pyramid(**getattr(config, KEY))
    blocks, cache = numbers(ids, own.boundary), kwargs.get("past_key_values")
    if cache is not None:
        if (before := getattr(cache, CACHED, None)) is not None:
            blocks = torch.cat([before, before[:, -1:] + blocks], 1)
        elif cache.get_seq_length():
            raise ValueError("a pyramid was given a cache whose tokens it has not seen, and cannot tell their messages")
        setattr(cache, CACHED, blocks)
    return args, {**kwargs, "blocks": blocks, "below": own.lower_layers}
