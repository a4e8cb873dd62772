"""From the configuration to a paradigm."""

from __future__ import annotations

from typing import cast

from rl_rerank import registry
from rl_rerank.config import Config, PluginConfig
from rl_rerank.paradigms.base import Paradigm


def build_paradigm(config: Config, name: str) -> Paradigm:
    """The paradigm `name` with the parameters that the configuration gives it."""
    plugin = config.paradigms.get(name, PluginConfig())
    return cast(Paradigm, registry.build("paradigm", plugin.name or name, plugin.params, target=plugin.target))
