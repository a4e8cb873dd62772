"""A plugin in the configuration."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class PluginConfig:
    """A plugin and its parameters."""

    name: str = ""
    target: str | None = None
    """`package.module:Attribute` or `path/to/file.py:Attribute`, for code that is not registered."""
    params: dict[str, Any] = field(default_factory=dict)
