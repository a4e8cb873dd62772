"""A model's output head on labels only: their logits and log-probabilities, without all logits in memory.

`model(..., asked=Asked(...))` runs the backbone, picks the hidden states that predict a label, and projects them piece
by piece. Where gradients are needed this is trl's kernel, which recomputes each piece in the backward and accumulates
in float32. The model's own forward stays as it is.

Differences and softmaxes of few labels take the labels' logits, not their log-probabilities. The normaliser cancels in
both, but in the gradient of the latter only up to rounding, and an optimizer that divides by a gradient's size turns
this rounding into steps of all weights of the head.
"""

# Shape legend: T tokens of the row, M labels, V vocabulary, E size of a hidden state.

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils.generic import ModelOutput

TOKENS = 4096
"""Hidden states of a tile in trl's kernel."""

TILE_BYTES = {"cpu": 2**25}
"""Bytes of a tile of logits by type of device."""

GPU_TILE_BYTES = 2**28
"""The same elsewhere, where small tiles would leave the device idle."""


@dataclass(frozen=True)
class Asked:
    """The labels of a packed row whose log-probabilities are asked for."""

    places: Tensor
    """[M]: the place of the hidden state that predicts each label."""
    labels: Tensor
    """[M]: token ids."""
    temperature: float = 1.0
    """Divides the logits."""
    with_logits: bool = False
    with_entropy: bool = False
    with_top1: bool = False
    """Whether to say which labels are the likeliest tokens."""
    in_float32: bool = False
    """Without gradients: whether the head computes in float32 whatever the types of its weights and of autocast are. In
    bfloat16 logits near 16 lie 1/16 apart, so that many documents have one score."""
    with_aux_loss: bool = False
    """Whether a mixture of experts also returns its load-balancing loss, over each token of the row once."""


@dataclass
class Scored(ModelOutput):
    """What a model returns for `asked`, in float32."""

    log_probs: Tensor = None  # pyright: ignore[reportAssignmentType]
    """[M], natural logarithms."""
    entropy: Tensor | None = None
    """[M]: of the distribution that each label is from."""
    is_top1: Tensor | None = None
    """[M] of bool: whether no token is likelier than the label."""
    aux_loss: Tensor | None = None
    logits: Tensor | None = None
    """[M], not divided by the temperature."""


def install(model: Any) -> None:
    """Let a transformers model's forward take `asked`; a second call changes nothing."""
    if getattr(model.forward, "takes_asked", False):
        return
    original = model.forward

    # The signature stays: `generate` and trainers read it.
    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, asked: Asked | None = None, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if asked is None else _scored(self, asked, *args, **kwargs)

    forward.takes_asked = True  # pyright: ignore[reportAttributeAccessIssue]
    model.forward = types.MethodType(forward, model)


def _scored(model: Any, asked: Asked, *args: Any, **kwargs: Any) -> Scored:
    config = model.config.get_text_config()
    if asked.with_aux_loss:
        kwargs["output_router_logits"] = True
    outputs = model.base_model(*args, use_cache=False, **kwargs)
    hidden = outputs.last_hidden_state.flatten(0, 1).index_select(0, asked.places)  # [M, E]
    found = projected(model.get_output_embeddings(), hidden, asked, config)
    if asked.with_aux_loss:
        found.aux_loss = _aux_loss(outputs.router_logits, config)
    return found


def projected(head: nn.Module, hidden: Tensor, asked: Asked, config: Any) -> Scored:
    """Compute what is asked for from the hidden states [M, E] that predict the labels.

    Args:
        config: the model's, which says how logits are scaled and capped.
    """
    scale, cap = _logit_scale(config), getattr(config, "final_logit_softcapping", None)
    elements = TILE_BYTES.get(hidden.device.type, GPU_TILE_BYTES) // 4
    if type(head) is not nn.Linear:
        # An adapter or a quantised head computes its logits in a way of its own.
        logits = head(hidden)
        found = _read(logits, asked, asked.labels, scale, cap)
        return Scored(*found, logits=_transformed(logits.gather(1, asked.labels[:, None]).squeeze(1), scale, cap))
    with _gathered(head):
        own = _transformed(_label_logits(head, hidden, asked.labels), scale, cap) if asked.with_logits else None
        if torch.is_grad_enabled():
            # Imported here: engines score without trl.
            from trl.kernels import ChunkedLogProbFunction

            columns = max(1, min(elements // max(min(len(hidden), TOKENS), 1), len(head.weight)))
            wanted = {"entropy": asked.with_entropy, "is_top1": asked.with_top1}
            outputs = tuple(name for name, is_wanted in wanted.items() if is_wanted)
            of = (hidden, head.weight, head.bias, asked.labels)
            kernel: Any = ChunkedLogProbFunction.apply(*of, asked.temperature, columns, cap, scale, outputs)
            return Scored(kernel[0], kernel[1], kernel[4], logits=own)
        size = max(1, elements // len(head.weight))
        project = _float32_logits if asked.in_float32 else _own_logits
        pieces = [
            _read(project(head, some), asked, labels, scale, cap)
            for some, labels in zip(hidden.split(size), asked.labels.split(size), strict=True)
        ]
    whole = [None if some[0] is None else torch.cat(some) for some in zip(*pieces, strict=True)]
    return Scored(*whole, logits=own)  # pyright: ignore[reportArgumentType]


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Let a model's own forward compute its logits in float32, as `Asked.in_float32` does."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        yield
        return
    own = head.__dict__.get("forward")
    head.forward = types.MethodType(_float32_logits, head)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own


def _own_logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    return nn.functional.linear(hidden, head.weight, head.bias)


def _float32_logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Project [..., E] to [..., V] in float32; weights of another type are converted piece by piece."""
    rows = max(1, TILE_BYTES.get(hidden.device.type, GPU_TILE_BYTES) // 4 // head.weight.shape[1])
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if head.bias is None else head.bias.float()
        if head.weight.dtype == torch.float32:
            return nn.functional.linear(hidden.float(), head.weight, bias)
        pieces = [nn.functional.linear(hidden.float(), some.float()) for some in head.weight.split(rows)]
        logits = torch.cat(pieces, dim=-1)
        return logits if bias is None else logits + bias


def _label_logits(head: nn.Linear, hidden: Tensor, labels: Tensor) -> Tensor:
    """Compute the logit of each label alone: [M], in float32, in which fewer are equal than in bfloat16."""
    rows = head.weight.index_select(0, labels).float()
    if is_deepspeed_zero3_enabled() and torch.is_autocast_enabled(hidden.device.type):
        # A weight that the head shares with the embedding may be here already, as DeepSpeed has gathered it for the
        # embedding: in autocast's type. Whether it is depends on the forwards before, so the same batch would have
        # other logits after a resumption. The difference has no gradient, so the rows' gradients are not rounded.
        dtype = torch.get_autocast_dtype(hidden.device.type)
        rows = rows + (rows.to(dtype).float() - rows).detach()
    own = (hidden.float() * rows).sum(1)
    return own if head.bias is None else own + head.bias[labels].float()


def _transformed(logits: Tensor, scale: float, cap: float | None) -> Tensor:
    logits = logits.float() * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _read(
    logits: Tensor, asked: Asked, labels: Tensor, scale: float, cap: float | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Read log-probabilities, entropies and the likeliest labels [M] from logits [M, V]."""
    each = (_transformed(logits, scale, cap) / asked.temperature).log_softmax(-1)
    own = each.gather(1, labels[:, None]).squeeze(1)
    entropy = -(each.exp() * each).sum(-1) if asked.with_entropy else None
    return own, entropy, own >= each.amax(-1) if asked.with_top1 else None


def _gathered(head: nn.Linear) -> AbstractContextManager[Any]:
    """Gather the head's weights under ZeRO-3: only its own forward, which does not run here, would do so."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    from trl.trainer.utils import maybe_gather_lm_head_ctx

    return maybe_gather_lm_head_ctx(head.weight, head.bias)  # pyright: ignore[reportArgumentType]


def _logit_scale(config: Any) -> float:
    """Return what a model multiplies its logits by, as trl's fused head reads it."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (value := getattr(config, name, None)) is not None:
            return float(value)
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        return float(divisor) if config.model_type == "hyperclovax" else 1 / float(divisor)
    return 1.0


def _aux_loss(router_logits: Any, config: Any) -> Tensor:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    experts = getattr(config, "num_experts", None) or config.num_local_experts
    found = load_balancing_loss_func(router_logits, experts, config.num_experts_per_tok)
    assert isinstance(found, Tensor)
    return found
