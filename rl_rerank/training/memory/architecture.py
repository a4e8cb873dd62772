"""The architecture of a model, for models on this machine from their files, for those of the recipes from a table."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig

from rl_rerank.config import ModelConfig
from rl_rerank.training.loop import lengths

TABLE = Path(__file__).with_name("architectures.json")


class Architecture(NamedTuple):
    """A transformers configuration."""

    config: Any
    source: str
    """Where it is from, for the plan."""


def find(model: ModelConfig) -> Architecture:
    """Find a model's architecture without a download; a folder on this machine goes before the table.

    Raises:
        LookupError: if the model is neither on this machine nor in the table.
    """
    folder = lengths.local_folder(model)
    if folder is not None:
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=model.trust_remote_code
        )
        return Architecture(config.get_text_config(), f"{folder}")
    table = _table()
    if model.path not in table["models"]:
        raise LookupError(
            f"model.path={model.path!r} is not on this machine, and its shape is not in the table of "
            f"{', '.join(table['models'])}; give a folder with its config.json"
        )
    return Architecture(AutoConfig.for_model(**table["models"][model.path]), f"the table of shapes ({table['source']})")


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))
