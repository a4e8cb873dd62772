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
from rl_rerank.packed.attention import KeysValues
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
    if types := found & ROPE_BY_LENGTH:
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
        self._kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._leaves: dict[nn.Module, tuple[Tensor, Tensor]] = {}
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
        if self.pieces:
            return forward.scored(model, packed.behind(first - 1), prefix=_behind(self._leaves), **asked)
        attached = {
            module: (_attached(key, leaves[0]), _attached(value, leaves[1]))
            for (module, (key, value)), leaves in zip(self._kept.items(), self._leaves.values(), strict=True)
        }
        self._kept, self._leaves = {}, {}
        found = forward.scored(model, packed.behind(first - 1), prefix=_behind(attached), **asked)
        return replace(found, log_probs=found.log_probs + 0.0 * self._log_prob.sum())

    def _compute(self, model: Any, prompt: Any, device: torch.device) -> None:
        def keep(module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            if self._log_prob is None:  # else a checkpointed layer is computed again
                self._kept[module] = (key, value)
            return key, value

        alone = pack([(prompt, len(prompt) - 1)]).to(device)
        self._log_prob = forward.scored(model, alone, prefix=keep).log_probs
        self._leaves = {
            module: (key.detach().requires_grad_(key.requires_grad), value.detach().requires_grad_(value.requires_grad))
            for module, (key, value) in self._kept.items()
        }


def _behind(given: dict[nn.Module, tuple[Tensor, Tensor]]) -> KeysValues:
    """Put the keys and values of a piece behind given ones [1, K, P, D]."""

    def joined(module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        before = given[module]
        return torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)

    return joined


def _attached(kept: Tensor, leaf: Tensor) -> Tensor:
    """A tensor of the prompt's graph whose gradient begins with the leaf's; without one, the tensor itself."""
    return kept if leaf.grad is None else _WithGradient.apply(kept, leaf.grad)  # pyright: ignore[reportReturnType]


class _WithGradient(torch.autograd.Function):
    """The identity; its backward adds a gradient that is known already."""

    @staticmethod
    def forward(ctx: Any, kept: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return kept.view_as(kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad + ctx.saved_tensors[0], None
