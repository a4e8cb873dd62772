"""Processors of models that see: loaded with Pillow's image processors, and saved beside models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rl_rerank.config import ModelConfig
from rl_rerank.prompts.vision import Vision

FILES = ("processor_config.json", "preprocessor_config.json")
"""Files of a folder of which a processor needs one."""


def load_processor(folder: Path, trust_remote_code: bool = False) -> Any:
    """Load a folder's processor.

    Its image processor is the one that uses Pillow, on every machine: torchvision's resizes with other numbers, and a
    model is to be asked as it was trained.
    """
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(
        str(folder), backend="pil", local_files_only=True, trust_remote_code=trust_remote_code
    )


def save_processor(source: str | Path, target: Path, trust_remote_code: bool = False) -> None:
    """Save the processor of a model folder into another one; nothing where there is none."""
    if blindness(Path(source)) is None:
        load_processor(Path(source), trust_remote_code).save_pretrained(target)


def blindness(folder: Path) -> str | None:
    """Say why the model in a folder cannot be shown images; None if it can."""
    if not (path := folder / "config.json").is_file():
        return "the model's folder is not here, so that its image processor is not known"
    config = json.loads(path.read_text(encoding="utf-8"))
    if not config.get("vision_config"):
        return f"the model in {str(folder)!r} reads text only: its config.json has no vision_config"
    text = config.get("text_config", config)
    if any("mrope_section" in (text.get(name) or {}) for name in ("rope_parameters", "rope_scaling")):
        return (
            f"the positions of the model in {str(folder)!r} have several dimensions (M-RoPE), with which images are "
            "not computed yet; give a model with plain positions, such as SmolVLM"
        )
    if not any((folder / name).is_file() for name in FILES):
        return f"{str(folder)!r} has no processor beside its model: {' or '.join(FILES)} is missing"
    return None


def sight(model: ModelConfig, folder: Path) -> dict[str, Any]:
    """Find how the model in a folder sees images: the arguments `vision` and `blindness` of a Renderer."""
    if (reason := blindness(folder)) is not None:
        return {"blindness": reason}
    try:
        processor = load_processor(folder, model.trust_remote_code)
    except ImportError as e:  # prompts of text need none
        return {"blindness": f"the processor of {str(folder)!r} cannot be loaded: {e}"}
    return {"vision": Vision(processor, max_image_tokens=model.max_image_tokens)}
