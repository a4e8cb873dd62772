"""The modules to which a stage's `lora.target_modules` adds adapters, found without the model's weights."""

from __future__ import annotations

import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from peft.utils.error import NoMatchingPeftModuleError
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from rl_rerank.config import LoraConfig, ModelConfig
from rl_rerank.engines.local import embedded
from rl_rerank.engines.local.auto import auto_class
from rl_rerank.training.loop import lengths
from rl_rerank.training.loop.arguments import peft_config


def check(
    model: ModelConfig, name: str, lora: LoraConfig | None, *, trains_head: bool, folder: Path | None = None
) -> None:
    """Refuse modules that the model lacks, that cannot have an adapter, or whose adapter could not be merged.

    Args:
        name: the stage's name.
        trains_head: whether the stage's loss reads the output of the head, and so would train an adapter on it.
        folder: the model's folder; None looks for one on this machine. Without one, nothing is refused.

    Raises:
        ValueError: with the modules that the model has.
    """
    if lora is None:
        return
    base = _without_weights(model, folder)
    if base is None:
        return
    place = f"stages.{name}.lora.target_modules={_shown(lora.target_modules)}"
    sharing = _sharing(base)
    head = _name(base, base.get_output_embeddings())
    useless = set(sharing) if trains_head else {*sharing, head}
    kinds = (nn.Linear, Conv1D, nn.Embedding)
    able = [n for n, module in base.named_modules() if isinstance(module, kinds) and n not in useless]
    known = ", ".join(sorted({module.rpartition(".")[2] for module in able}))
    for module in _adapted(base, lora, place, known):
        if module in sharing:
            raise ValueError(
                f"{place} adapts {module}, which has its weight in common with {sharing[module]} in this model, so the "
                f"adapter could not be merged into the one without the other; leave it out (the model also has "
                f"{known}), or train all weights with stages.{name}.lora=null"
            )
        if module == head and not trains_head:
            raise ValueError(
                f"{place} adapts {module}, whose weight this stage's trainer multiplies by itself, so the adapter "
                f"would never be trained; leave it out (the model also has {known})"
            )


def _without_weights(model: ModelConfig, folder: Path | None) -> Any:
    """Build the model without memory for its weights; None if its configuration is not on this machine."""
    if folder is None and model.path == embedded.NAME:
        config = AutoConfig.for_model(**embedded.ARCHITECTURE)
    elif (folder := folder or lengths.local_folder(model)) is not None:
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=model.trust_remote_code
        )
    else:
        return None
    with torch.device("meta"):
        return auto_class(config).from_config(config, trust_remote_code=model.trust_remote_code)


def _sharing(base: nn.Module) -> dict[str, str]:
    """Return module -> the other modules that share one of its weights."""
    owners: defaultdict[nn.Parameter, list[str]] = defaultdict(list)
    for name, module in base.named_modules():
        for weight in module.parameters(recurse=False):
            owners[weight].append(name)
    return {name: ", ".join(o for o in names if o != name) for names in owners.values() for name in names if names[1:]}


def _adapted(base: Any, lora: LoraConfig, place: str, known: str) -> list[str]:
    """Return the names of the modules to which peft adds adapters."""
    adapter: Any = peft_config(lora)
    try:
        if isinstance(lora.target_modules, list):
            _require_all(base, lora.target_modules)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the stage's own model brings peft's warnings
            adapted: Any = get_peft_model(base, adapter)
    except NoMatchingPeftModuleError as e:
        example = next(name for name, module in base.named_modules() if isinstance(module, nn.Linear))
        raise ValueError(
            f"{place}: this regular expression matches no whole name of a module, such as {example}; to name modules "
            f"by their last part, write a list in brackets; the model has {known}"
        ) from e
    except ValueError as e:
        first, *further = str(e).splitlines()
        # A module that has others stands there on a line for each of them.
        said = f"{first}...{further[-1]}" if further else first
        raise ValueError(f"{place}: {said}; it has {known}") from e
    return adapted.base_model.targeted_module_names


def _require_all(base: nn.Module, targets: list[str]) -> None:
    """Refuse names of no module; peft itself is content if it finds one of them."""
    left: Any = PeftLoraConfig(target_modules=targets)
    # peft replaces the names that the experts of a mixture had before their weights were put into one tensor.
    convert_peft_config_for_transformers(left, model=base, conversions=None)
    modules = [f".{name}" for name, _ in base.named_modules()]
    named = (target for target in targets if target in left.target_modules)
    if unknown := [target for target in named if not any(module.endswith(f".{target}") for module in modules)]:
        raise ValueError(f"the model has no module {', '.join(unknown)}")


def _name(base: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((name for name, module in base.named_modules() if module is wanted), None)


def _shown(targets: str | list[str]) -> str:
    return repr(targets) if isinstance(targets, str) else f"[{','.join(targets)}]"
