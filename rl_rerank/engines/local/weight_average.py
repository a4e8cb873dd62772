"""Averages of the weights of model folders, one tensor at a time.

Sums are in float32 and rounded once, to the type that is asked for. No model is built: only one file of the result and
one tensor of each model are in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
PASSING = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"})
"""Entries of a config.json on which the weights' meaning does not depend."""


def average(place: str, folders: Mapping[str, Path], shares: Sequence[float], output: Path, dtype: str) -> None:
    """Write the weighted mean of models' tensors as safetensors files, divided as the first model's are.

    Args:
        place: beginning of an error.
        folders: name -> model folder, in the order of `shares`.
        shares: weights with a sum of 1.
        dtype: of the result; tensors of integers keep theirs.

    Raises:
        ValueError: if the models differ in architecture or in names, shapes or integers of tensors, or a mean is not
            finite.
    """
    _require_same_architecture(place, folders)
    with ExitStack() as stack:
        models = {name: Tensors(folder, stack) for name, folder in folders.items()}
        (first, reference), *others = models.items()
        for other, tensors in others:
            _require_same_names(place, first, reference, other, tensors)
        for file, names in reference.files.items():
            made = {name: _mean(place, name, models, shares, getattr(torch, dtype)) for name in names}
            save_file(made, output / file, metadata={"format": "pt"})
    if (index := folders[first] / INDEX).is_file():
        values = json.loads(index.read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in output.glob("*.safetensors"))
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": values["weight_map"]}, indent=2)
        (output / INDEX).write_text(text + "\n", encoding="utf-8")


class Tensors:
    """The tensors of a model folder, each read when it is asked for.

    Attributes:
        files: name of a file -> names of its tensors.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        if (folder / INDEX).is_file():
            found = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            paths = sorted(set(found.values()))
        else:
            paths = ["model.safetensors"]
        self._open: dict[str, Any] = {
            path: stack.enter_context(safe_open(str(folder / path), framework="pt")) for path in paths
        }
        self.files = {path: sorted(file.keys()) for path, file in self._open.items()}
        self._places = {name: path for path, names in self.files.items() for name in names}

    @property
    def names(self) -> set[str]:
        return set(self._places)

    def __getitem__(self, name: str) -> Tensor:
        return self._open[self._places[name]].get_tensor(name)


def _mean(place: str, name: str, models: Mapping[str, Tensors], shares: Sequence[float], dtype: torch.dtype) -> Tensor:
    (first, reference), *_ = models.items()
    start = reference[name]
    total = torch.zeros(start.shape, dtype=torch.float32)
    for (other, tensors), share in zip(models.items(), shares, strict=True):
        own = tensors[name]
        if own.shape != start.shape:
            raise ValueError(
                f"{place}: {name} has the shape {_shape(start)} in {first} and {_shape(own)} in {other}, so the models "
                "cannot be averaged"
            )
        if own.is_floating_point():
            total.add_(own.float(), alpha=share)
        elif not torch.equal(own, start):
            raise ValueError(f"{place}: {name} holds integers, which differ between {first} and {other}")
    if not start.is_floating_point():
        return start
    mean = total.to(dtype)
    if not bool(torch.isfinite(mean).all()):
        raise ValueError(f"{place}: the average of {name} has values that are not finite in {dtype}; nothing was saved")
    return mean


def _require_same_architecture(place: str, folders: Mapping[str, Path]) -> None:
    settings = {name: json.loads((folder / "config.json").read_text("utf-8")) for name, folder in folders.items()}
    (first, reference), *others = settings.items()
    for other, values in others:
        for key in sorted((reference.keys() | values.keys()) - PASSING):
            if reference.get(key) != values.get(key):
                raise ValueError(
                    f"{place}: the config.json of {first} has {key}={json.dumps(reference.get(key))} and that of "
                    f"{other} {json.dumps(values.get(key))}; only models of one architecture can be averaged"
                )


def _require_same_names(place: str, first: str, reference: Tensors, other: str, tensors: Tensors) -> None:
    if differ := sorted(reference.names ^ tensors.names):
        there, missing = (first, other) if differ[0] in reference.names else (other, first)
        raise ValueError(
            f"{place}: {there} has the tensor {differ[0]} and {missing} has not ({len(differ)} such tensors); only "
            "models of one architecture can be averaged"
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
