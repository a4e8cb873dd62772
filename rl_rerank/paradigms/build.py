"""From the configuration to a paradigm."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from rl_rerank import registry
from rl_rerank.config import Config, PluginConfig
from rl_rerank.paradigms.base import Paradigm, ParadigmTraits

REQUIRED = ("name", "max_completion_tokens", "continuations", "prompt", "prompts", "target", "parse", "strategy")
KNOWN = frozenset({*REQUIRED, *(field.name for field in fields(ParadigmTraits))})


def build_paradigm(config: Config, name: str) -> Paradigm:
    """The paradigm `name` with the parameters that the configuration gives it."""
    plugin = config.paradigms.get(name, PluginConfig())
    return make(plugin.name or name, plugin.params, target=plugin.target)


def make(name: str, params: Mapping[str, Any], *, target: str | None = None) -> Paradigm:
    """The paradigm `name`, or `target` where given.

    Raises:
        LookupError, ImportError, ValueError: for a paradigm or a parameter that does not exist, or a misspelt optional
            attribute.
    """
    paradigm = registry.build("paradigm", name, params, target=target)
    registry.refuse_misspelt("paradigm", name, paradigm, KNOWN)
    return cast(Paradigm, paradigm)
