"""The class with which transformers loads a model: of those that see, or of those that read only."""

from __future__ import annotations

from typing import Any

from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText


def auto_class(config: Any) -> Any:
    """Choose the Auto class for a configuration. Models that see are loaded whole, also for prompts of text only."""
    sees = getattr(config, "vision_config", None) is not None and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM
