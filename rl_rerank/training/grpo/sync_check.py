"""Whether a colocated vLLM holds the weights that it was sent, compared bit for bit.

An engine that misses an update raises no error: it samples on, from an older policy. After a sync the policy's weights
are gathered once more and compared with those that the engine's layers compute with.
"""

# The modules of vLLM's models are torch's, whose attributes are not declared.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
COLUMNS = 1024
"""Columns of a packed weight that are read at a time."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found: tensors that are equal, those that differ, and those with no place in the engine."""

    equal: list[str] = field(default_factory=list[str])
    different: dict[str, str] = field(default_factory=dict[str, str])
    """Name -> how it differs."""
    unknown: list[str] = field(default_factory=list[str])


def compare(model: Any, sent: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Comparison:
    """Compare every weight that was sent with what the engine's model computes with.

    Args:
        model: vLLM's, of one process without quantization.
        sent: names and weights, as the sync sends them. All are read, also behind a difference: gathering them is a
            collective operation.
        dtype: the engine's, in which it keeps weights.
    """
    found, read = Comparison(), _Reader(model)
    for name, weight in sent:
        kept = weight.detach().to(dtype)
        for place in _places(name, model):
            here = read(place, kept)
            if here is None or here.shape != kept.shape:
                found.unknown.append(place)
            elif difference := _difference(kept, here):
                found.different[place] = difference
            else:
                found.equal.append(place)
    return found


def refusal(found: Comparison) -> str | None:
    """Say in one sentence that weights differ; None if they do not."""
    if not found.different:
        return None
    (first, how), *others = found.different.items()
    more = f", and {len(others)} more, such as {others[-1][0]}" if others else ""
    return (
        f"vLLM does not hold the policy's weights after they were sent: {first} is another tensor ({how}){more}. "
        f"{len(found.equal)} tensors are the same. Nothing was sampled from them; rollout=hf samples without an engine"
    )


def _places(name: str, model: Any) -> Iterator[str]:
    """The names under which the engine uses a weight: a tied embedding is the head too, which may be a copy."""
    yield name
    is_tied = name == EMBEDDING and model.config.tie_word_embeddings
    if is_tied and isinstance(getattr(model, "lm_head", None), nn.Module):
        yield HEAD


class _Reader:
    """Reads the weights of an engine's layers under the names of the policy's.

    vLLM keeps some layers as one, such as q_proj, k_proj and v_proj as qkv_proj. A fused layer is read once for all of
    its parts, which follow each other.
    """

    def __init__(self, model: Any) -> None:
        self.modules: Mapping[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        fused: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", {})
        self.fused = {part: (whole, parts.index(part)) for whole, parts in fused.items() for part in parts}
        self._last: tuple[str, Tensor | None] = ("", None)

    def __call__(self, name: str, like: Tensor) -> Tensor | None:
        """Read a weight; None if the engine has no layer for it, or it cannot be read."""
        path, _, kind = name.rpartition(".")
        parent, _, leaf = path.rpartition(".")
        if path in self.modules:
            whole = self._whole(path, kind, like)
            return whole if whole is None else whole[: like.shape[0]]  # a vocabulary is padded
        layer, index = self.fused.get(leaf, ("", 0))
        module: Any = self.modules.get(f"{parent}.{layer}")
        if not layer or module is None:
            return None
        sizes, whole = module.output_sizes, self._whole(f"{parent}.{layer}", kind, like)
        first = sum(sizes[:index])
        return None if whole is None else whole[first : first + sizes[index]]

    def _whole(self, path: str, kind: str, like: Tensor) -> Tensor | None:
        name = f"{path}.{kind}"
        if self._last[0] != name:
            module = self.modules[path]
            has_copy = kind == "weight" and hasattr(module, "cpu_linear") and not path.endswith("embed_tokens")
            self._last = (name, _multiplied(module, like) if has_copy else getattr(module, kind, None))
        return self._last[1]


def _multiplied(module: Any, like: Tensor) -> Tensor:
    """Read the weight [outputs, inputs] that a layer multiplies by, which vLLM packs on a CPU and does not keep.

    The layer computes the unit vectors. Every output is then one weight and zeros, so it is exact in any order.
    """
    inputs = like.shape[1]
    columns: list[Tensor] = []
    for first in range(0, inputs, COLUMNS):
        units = torch.zeros(min(COLUMNS, inputs - first), inputs, dtype=like.dtype)
        units[torch.arange(len(units)), first + torch.arange(len(units))] = 1
        columns.append(module.quant_method.apply(module, units, None))
    return torch.cat(columns).T


def _difference(kept: Tensor, here: Tensor) -> str | None:
    kept = kept.to(device=here.device, dtype=here.dtype)
    if torch.equal(kept, here):
        return None
    gaps = (kept.double() - here.double()).abs()
    # A difference that is not a number counts as one.
    return f"{int((~(gaps == 0)).sum())} of {gaps.numel()} values differ, by up to {gaps.max().item():.3g}"
