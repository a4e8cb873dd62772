"""The memory of activations, counted: the model runs forward and backward on tensors that have shapes but no data.

transformers builds the model from its configuration under torch's FakeTensorMode, peft adds adapters, and a micro-batch
runs through it as one row of tokens. Every operation is seen, so the count follows the model's own code, autocast, LoRA
and gradient checkpointing, and has no formula for any of them.

Attention counts as a fused kernel, whose memory is linear in the tokens. The head is left out; see `state.head`.
"""

# Shape legend: N = 1 row, H query heads, K key heads, T tokens, D size of a head.

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedFakeTensorException
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoModelForCausalLM

from rl_rerank.config import ModelConfig
from rl_rerank.training.loop.arguments import peft_config
from rl_rerank.training.memory import architecture
from rl_rerank.training.memory.setup import Setup
from rl_rerank.training.memory.state import Parameters

FUSED = "rl_rerank_counted"
"""Name of the attention that is counted."""
DEPTHS = (2, 3)
"""Layers of the models that run where all layers are alike: from two on, memory is linear in their number."""


class Activations(NamedTuple):
    """Bytes beside weights, their gradients and the optimizer's states, before the head."""

    kept: int
    """Behind the forward: what the backward needs."""
    forward: int
    """The most during the forward, with the bfloat16 copies that autocast makes of weights."""
    backward: int
    """The most during the backward of the layers, with one that is computed again and gradients that are passed on."""


_counted: dict[tuple[Any, ...], Activations] = {}
_weighed: dict[tuple[Any, ...], tuple[Parameters, bool]] = {}


def count(setup: Setup, tokens: int) -> Activations:
    """Count the activations of a micro-batch of this many tokens.

    Raises:
        LookupError: if the model's architecture is not known, or does not run without data.
    """
    config = architecture.find(setup.model).config
    key = (*_key(setup, config), setup.is_bf16_mode, setup.autocasts, setup.checkpointing, setup.zero > 0, tokens)
    if key not in _counted:
        depth, are_alike = config.num_hidden_layers, _look(setup)[1]
        if not are_alike or depth <= max(DEPTHS):
            _counted[key] = _run(config, setup, tokens)
        else:
            low, high = (_run(_cut(config, layers), setup, tokens) for layers in DEPTHS)
            steps = (depth - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
            _counted[key] = Activations(*(round(a + (b - a) * steps) for a, b in zip(low, high, strict=True)))
    return _counted[key]


def parameters(setup: Setup) -> Parameters:
    """Count the weights of the model, with its adapters.

    Raises:
        LookupError: if the model's architecture is not known.
    """
    return _look(setup)[0]


def weights(model: ModelConfig) -> int:
    """Count the weights of a model.

    Raises:
        LookupError: if its architecture is not known.
    """
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(copy.deepcopy(architecture.find(model).config))
    return sum(weight.numel() for weight in built.parameters())


def _look(setup: Setup) -> tuple[Parameters, bool]:
    """The numbers of weights, and whether all layers are alike."""
    config = architecture.find(setup.model).config
    key = _key(setup, config)
    if key not in _weighed:
        model = _build(config, setup)
        weights = list(model.parameters())  # a tied weight is one
        head: Any = model.get_output_embeddings()
        found = Parameters(
            sum(w.numel() for w in weights),
            sum(w.numel() for w in weights if w.requires_grad),
            head.weight.numel(),
            head.weight.requires_grad,
            model.get_input_embeddings().weight.numel(),
        )
        _weighed[key] = found, _are_alike(config, model)
    return _weighed[key]


def _key(setup: Setup, config: Any) -> tuple[Any, ...]:
    lora = None if setup.lora is None else json.dumps(asdict(setup.lora))
    return json.dumps(config.to_dict(), sort_keys=True, default=str), setup.model.dtype, lora


def _build(config: Any, setup: Setup) -> Any:
    """The model without data, in the types in which `loop.precision` trains it."""
    AttentionInterface.register(FUSED, _attention)
    is_frozen = setup.lora is not None and not setup.zero
    dtype = getattr(torch, setup.model.dtype) if is_frozen or setup.is_bf16_mode else torch.float32
    adapter: Any = peft_config(setup.lora)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=FUSED)
        if adapter is not None:
            # In float32, but in DeepSpeed's bf16 mode, which casts all weights.
            model = get_peft_model(model, adapter, autocast_adapter_dtype=not setup.is_bf16_mode)
    model.train()
    if setup.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _cut(config: Any, layers: int) -> Any:
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = layers
    if getattr(cut, "layer_types", None):
        cut.layer_types = cut.layer_types[:layers]
    return cut


def _are_alike(config: Any, model: nn.Module) -> bool:
    if len(set(getattr(config, "layer_types", None) or ())) > 1:
        return False
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = max(stacks, key=len, default=nn.ModuleList())
    shapes = {tuple((name, weight.shape) for name, weight in layer.named_parameters()) for layer in layers}
    return len(layers) == config.num_hidden_layers and len(shapes) == 1


def _run(config: Any, setup: Setup, tokens: int) -> Activations:
    model = _build(config, setup)
    try:
        with FakeTensorMode():
            # Only tensors of a CPU or of CUDA, without data though they are, take part in autocast.
            return _measure(model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype)), setup, tokens)
    except UnsupportedFakeTensorException as e:
        raise LookupError(
            f"the activations of model.path={setup.model.path!r} cannot be counted without data: {e}"
        ) from e


def _measure(model: Any, setup: Setup, tokens: int) -> Activations:
    base = model.get_base_model() if setup.lora is not None else model
    for weight in model.parameters():
        if weight.requires_grad:
            # Gradients are counted with the optimizer's states. Here each is added to them and gone.
            weight.register_post_accumulate_grad_hook(_drop)
    # The gradient of the embedding comes when all layers are done, so it would hide what grows with their number.
    base.get_input_embeddings().requires_grad_(False)
    base.enable_input_require_grads()
    ids = torch.zeros(1, tokens, dtype=torch.long)
    live = _Live([*model.parameters(), *model.buffers(), ids])
    with live:
        with torch.autocast("cpu", torch.bfloat16, enabled=setup.autocasts):
            hidden = base.get_decoder()(input_ids=ids, position_ids=ids.clone(), use_cache=False).last_hidden_state
        kept, forward = live.now, live.peak
        live.peak = 0
        hidden.backward(torch.empty_like(hidden))
    return Activations(kept, forward, live.peak)


def _drop(weight: Tensor) -> None:
    weight.grad = None


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as anything refers to them.

    Args:
        known: tensors that do not count; views of them do not either.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.now -= size


class _Fused(torch.autograd.Function):
    """What a fused kernel keeps and makes: query, key, value, output and a sum for each query; in the backward a
    float32 gradient of the query besides the results."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads, tokens, _ = query.shape
        out = query.new_empty(rows, tokens, heads, value.shape[-1]).transpose(1, 2)  # as the projection behind takes it
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, _, _ = ctx.saved_tensors
        accumulated = torch.empty_like(query, dtype=torch.float32)
        return accumulated.to(query.dtype), torch.empty_like(key), torch.empty_like(value)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention of [N, H, T, D] queries over [N, K, T, D] keys: [N, T, H, D], as transformers calls it.

    Under autocast the cosines of RoPE promote query and key to float32, and a kernel takes one type.
    """
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    return _Fused.apply(query, key, value).transpose(1, 2).contiguous(), None
