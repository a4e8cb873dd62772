"""A prompt that several rows continue, computed once: its keys and values leave one forward and enter others.

A group of completions that exceeds a token budget is computed in pieces, one forward and backward after the other. The
prompt without its last token is computed before the first piece, and every layer's keys and values are kept. Each piece
is a packed row that begins with the prompt's last token and attends to them. By the chain rule, the prompt's gradient
is one backward from the sum of the pieces' gradients at these keys and values: earlier pieces add theirs up in detached
leaves, and the last piece is attached to the prompt's graph, into which the sum enters with its own gradient.

So there are as many backwards as pieces, and each goes through all weights in the order of any other, which is what
DDP, ZeRO-1 and ZeRO-2 need; the prompt's own last layer takes part with a gradient of 0. Processes differ in the number
of forwards. ZeRO-3, which gathers weights in every forward and backward on all processes at once, cannot do this.
"""

# Shape legend: K key heads, P tokens of the prefix, D size of a head.

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rl_rerank.packed import forward
from rl_rerank.packed.head import Scored
from rl_rerank.packed.layout import Packed, pack

LAYER = 12
"""Activations of a layer for a token, in hidden sizes, at least: the inputs of two norms, of the projections of
attention, of its output's and of the MLP's (5), query, and three of the MLP's inner size, at least twice the hidden."""
ROPE_BY_LENGTH = {"dynamic", "longrope"}
"""Types of RoPE whose frequencies depend on the longest position of a forward."""


def refusal(model: Any) -> str | None:
    """Say why keys and values of a prompt cannot be kept; None if they can. Of a model whose rows can be packed."""
    if any(hasattr(weight, "ds_id") for weight in model.parameters()):
        return "ZeRO-3 gathers its weights on all processes at once, in equally many forwards"
    for module in _checkpointing(model):
        settings = getattr(module._gradient_checkpointing_func, "keywords", {})
        if settings.get("use_reentrant", True):
            return "reentrant gradient checkpointing computes layers without a graph"
    rope: Any = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    found = {each.get("rope_type") for each in (rope, *rope.values()) if isinstance(each, dict)}
    if types := ROPE_BY_LENGTH & found:
        return f"its RoPE, {', '.join(sorted(types))}, depends on the longest position of a forward"
    return None


def cost(model: Any) -> float:
    """Bound the memory of a prompt's token during the pieces, in tokens of a packed row in training.

    Beside what is kept of any token, each layer keeps a copy of its key and value in the piece's row and the gradients
    of both. With gradient checkpointing, a layer keeps only the hidden state of any token, one layer at a time has all
    activations of the piece's tokens, and key and value come on top of the former.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    more, layers = 4 * heads * size / config.hidden_size, config.num_hidden_layers  # in hidden sizes
    if not _checkpointing(model):
        return 1 + more / LAYER
    return max(1.0, (layers * (1 + more) + more) / (layers + LAYER))


def _checkpointing(model: Any) -> list[Any]:
    return [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]


class Prefix:
    """The keys and values of a prompt, for one pass over the pieces that continue it.

    Args:
        pieces: number of forwards that will take them.
    """

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self._kept: dict[nn.Module, tuple[_Kept, _Kept]] = {}
        self._log_prob: Tensor | None = None

    def scored(self, model: Any, packed: Packed, **asked: Any) -> Scored:
        """Compute what `forward.scored` does, for the next piece.

        Args:
            packed: the whole sequences of the piece, all with the same prompt before their first labels, of two tokens
                or more.
        """
        ids, first = packed.sequences[0]
        if self._log_prob is None:
            self._compute(model, ids[:first], packed.input_ids.device)
        self.pieces -= 1
        assert self.pieces >= 0 and self._log_prob is not None
        kept, is_last = self._kept, self.pieces == 0

        def behind(module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = (one.given(is_last) for one in kept[module])
            return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)

        found = forward.scored(model, packed.behind(first - 1), prefix=behind, **asked)
        if not is_last:
            return found
        self._kept = {}
        return replace(found, log_probs=found.log_probs + 0.0 * self._log_prob.sum())

    def _compute(self, model: Any, prompt: Any, device: torch.device) -> None:
        def keep(module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            if self._log_prob is None:  # else a checkpointed layer is computed again
                self._kept[module] = (_Kept(key), _Kept(value))
            return key, value

        alone = pack([(prompt, len(prompt) - 1)]).to(device)
        self._log_prob = forward.scored(model, alone, prefix=keep).log_probs


class _Kept:
    """Keys or values [1, K, P, D] of a layer, and the sum of their gradients."""

    def __init__(self, attached: Tensor) -> None:
        self.attached = attached
        self.leaf = attached.detach().requires_grad_(attached.requires_grad)
        self.gradient: Tensor | None = None

    def given(self, is_last: bool) -> Tensor:
        """The tensor for a piece."""
        source = self.attached if is_last else self.leaf
        return _Given.apply(source, self, is_last)  # pyright: ignore[reportReturnType]


class _Given(torch.autograd.Function):
    """The identity. The backward of a piece adds its gradient up; that of the last one passes the sum on.

    A gradient is copied: it is a part of that of all keys in the row, whose memory it would keep.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, kept: _Kept, is_last: bool) -> Tensor:
        ctx.kept, ctx.is_last = kept, is_last
        return source.view_as(source)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        kept: _Kept = ctx.kept
        total = grad.clone(memory_format=torch.contiguous_format) if kept.gradient is None else kept.gradient.add_(grad)
        kept.gradient = None if ctx.is_last else total
        return total if ctx.is_last else None, None, None
