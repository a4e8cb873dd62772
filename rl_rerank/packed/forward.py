"""Logits and log-probabilities of the labels of token sequences, by one packed row or by padded ones."""

# Shape legend: M labels.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from rl_rerank.packed import attention, head
from rl_rerank.packed.attention import KeysValues, refusal
from rl_rerank.packed.head import Asked, Scored
from rl_rerank.packed.layout import Labelled, Packed, pack

GAP_FLOAT32, GAP_REDUCED = 1e-3, 0.2
"""How far apart a packed row and separate rows may be on the first batch, in nats a token on average. In bfloat16 each
of them is about .05 from float32 for SmolLM2-135M; a row in which documents see each other is 1.4 apart."""

__all__ = ["GAP_FLOAT32", "GAP_REDUCED", "install", "pack", "plainly_scored", "refusal", "scored"]


def install(model: Any) -> None:
    """Let a transformers model, or the one inside of a PEFT model, compute packed rows."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    attention.install(base)
    head.install(base)


def scored(
    model: Any,
    packed: Packed,
    *,
    temperature: float = 1.0,
    with_logits: bool = False,
    with_entropy: bool = False,
    with_top1: bool = False,
    with_aux_loss: bool = False,
    in_float32: bool = False,
    prefix: KeysValues | None = None,
) -> Scored:
    """Compute the logits and log-probabilities [M] of a packed row's labels, in the order of `pack`.

    Args:
        model: a model that `install` has prepared, or a wrapper around it.
        temperature: divides the logits.
        in_float32: without gradients, whether the head computes in float32 whatever the model's type is.
        prefix: receives the keys and values of the row, and returns them behind those of the tokens that are given.
    """
    device = packed.input_ids.device
    return model(
        input_ids=packed.input_ids[None],
        # No mask is made of one that has four dimensions, and none is needed.
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        position_ids=torch.from_numpy(packed.layout.positions[packed.layout.given :]).to(device)[None],
        packed=packed.layout,
        prefix=prefix,
        asked=Asked(
            packed.places,
            packed.labels,
            temperature,
            with_logits=with_logits,
            with_entropy=with_entropy,
            with_top1=with_top1,
            in_float32=in_float32,
            with_aux_loss=with_aux_loss,
        ),
    )


def plainly_scored(
    model: Any,
    sequences: Sequence[Labelled],
    *,
    pad_id: int,
    temperature: float = 1.0,
    with_top1: bool = False,
    in_float32: bool = False,
) -> Scored:
    """Compute what `scored` does, without entropies, by a left-padded row for each sequence of input tokens."""
    rows: dict[tuple[int, ...], int] = {}
    numbers = [rows.setdefault(tuple(ids[:-1]), len(rows)) for ids, _ in sequences]
    width, kept = max(map(len, rows)), max(len(ids) - first for ids, first in sequences)
    device = next(model.parameters()).device
    ids = torch.tensor([[*[pad_id] * (width - len(row)), *row] for row in rows], device=device)
    mask = torch.tensor([[*[0] * (width - len(row)), *[1] * len(row)] for row in rows], device=device)
    with head.in_float32(model) if in_float32 else nullcontext():
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=kept,
            use_cache=False,
        ).logits
    asked = [
        (number, kept - len(tokens) + place, tokens[place])
        for number, (tokens, first) in zip(numbers, sequences, strict=True)
        for place in range(first, len(tokens))
    ]
    row, column, label = torch.tensor(asked, device=device).unbind(1)
    of_labels, label = logits[row, column].float(), label[:, None]
    each = (of_labels / temperature).log_softmax(-1)
    own = each.gather(1, label).squeeze(1)
    is_top1 = own >= each.amax(1) if with_top1 else None
    return Scored(own, is_top1=is_top1, logits=of_labels.gather(1, label).squeeze(1))
