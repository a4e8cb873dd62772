"""Low-rank adapters, added to the weights that they adapt: in float32, out of place, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

Gather = Callable[[list[nn.Parameter]], AbstractContextManager[object]]
"""Makes sharded parameters whole within its context."""

PROBES = 16
"""Tokens of the input on which a model is compared before and after its adapter is merged."""


def merged_weights(model: PeftModel, gather: Gather = nullcontext) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight with its adapter added, in the weight's dtype, under its name in the base model.

    `model` stays as it is. In floating point (w + d) - d is not w, so an adapter that is merged in place and removed
    again changes its base, a little more each time. A weight that modules share is yielded once. No more than one layer
    is computed, or gathered, at a time.

    Args:
        gather: applied to the parameters of one layer, in the same order on every process.
    """
    seen: set[nn.Parameter] = set()
    for name, module in _modules(model.get_base_model()):
        if _is_adapted(module):
            with gather(list(module.parameters())):
                merged = _added(module)
            yield from ((f"{name}.{leaf}", weight) for leaf, weight in merged.items())
            continue
        for leaf, weight in module.named_parameters(recurse=False):
            if weight not in seen:
                seen.add(weight)
                with gather([weight]):
                    yield f"{name}.{leaf}" if name else leaf, weight.data


def merge(model: PeftModel, place: str) -> PreTrainedModel:
    """Merge the adapter into its base model, which is returned, and check that it computes the same.

    `model` must be whole and is used up.

    Args:
        place: beginning of the error.

    Raises:
        ValueError: if the merged model's logits differ from the adapted model's by more than their dtype explains.
    """
    expected = _logits(model)
    for _, module in _modules(model.get_base_model()):
        if _is_adapted(module):
            merged = _added(module)
            for leaf, weight in module.get_base_layer().named_parameters():
                # `data`, as a weight that is shared must stay shared: its file has it only once.
                weight.data = merged[leaf]
    adapter: Any = model.peft_config["default"]
    plain = model.unload()
    found = _logits(plain)
    # Half of the dtype's digits: rounding the merged weights and the activations costs some of the others.
    bound = torch.finfo(plain.dtype).eps ** 0.5
    difference = ((found - expected).norm() / expected.norm()).item()
    if not difference <= bound:
        targets = adapter.target_modules
        named = targets if isinstance(targets, str) else ", ".join(sorted(targets))
        raise ValueError(
            f"{place}: merging the adapter of the modules {named} changes the model: on {PROBES} tokens the logits of "
            f"the merged model differ from those of the adapted one by {difference:.2g} of their size, and "
            f"{plain.dtype} explains at most {bound:.2g}. An adapter on a weight that modules share cannot be merged; "
            "leave those modules out of lora.target_modules"
        )
    return plain


def _modules(module: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Walk the base model's modules under their names in it; adapted ones are not entered."""
    if isinstance(module, ModulesToSaveWrapper):
        module = module.modules_to_save["default"]
    yield name, module
    if not _is_adapted(module):
        for child, inner in module.named_children():
            yield from _modules(inner, f"{name}.{child}" if name else child)


def _is_adapted(module: Any) -> bool:
    return isinstance(module, BaseTunerLayer)


def _added(layer: Any) -> dict[str, Tensor]:
    """Return the parameters of the layer's base, in their dtypes, with the adapter added in float32."""
    copies = {
        name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
        for name, weight in layer.named_parameters(prefix="layer")
    }
    with torch.no_grad():
        merged = functional_call(_Merge(layer), copies, ())
    return {name: merged[name].to(weight.dtype) for name, weight in layer.get_base_layer().named_parameters()}


class _Merge(nn.Module):
    """peft's merge as a forward, so that it can run on copies of a layer's parameters.

    peft knows how to merge each kind of layer: linear, transposed, embedding, experts.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> dict[str, Tensor]:
        # A layer of experts has an adapter for each of its parameters, one around the other.
        adapters = [module for module in self.layer.modules() if isinstance(module, BaseTunerLayer)]
        try:
            for adapter in adapters:
                adapter.merge()
            return dict(self.layer.get_base_layer().named_parameters())
        finally:
            for adapter in adapters:
                adapter.merged_adapters.clear()


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Return the logits [PROBES, V] of tokens from all over the vocabulary, less the mean, which changes nothing."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(1, PROBES + 1, device=model.device) * vocabulary // (PROBES + 1)
    logits = model.eval()(input_ids=ids[None]).logits[0].float()
    return logits - logits.mean(-1, keepdim=True)
