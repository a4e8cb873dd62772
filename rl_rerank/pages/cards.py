"""What the cards of models and of data sets share."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rl_rerank.config import Config, ModelConfig
from rl_rerank.engines.local import embedded
from rl_rerank.io.markdown import code, plain

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def front_matter(values: Mapping[str, Any]) -> str:
    """What the hub reads at the top of a card."""
    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False)}---\n"


def model_name(model: ModelConfig) -> str:
    """The configured model's name for readers elsewhere: a folder goes by its last part."""
    return model.path if model.path == embedded.NAME or is_hub_id(model.path) else Path(model.path).expanduser().name


def is_hub_id(path: str) -> bool:
    """Whether a model's path is an id on the hub and no folder here."""
    return HUB_ID.fullmatch(path) is not None and not Path(path).is_dir()


def source(config: Config) -> str:
    """Where the data are from, without a place of this machine."""
    name = f" ({plain(Path(config.data.path).name)})" if config.data.path else ""
    return f"source {code(config.data.source)}{name}"
