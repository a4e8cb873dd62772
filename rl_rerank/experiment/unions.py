"""Overrides inside settings that are a word, or a mapping whose keys depend on its `kind`: `policy`, `rollout` and
`first_stage`."""

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import OmegaConf

UNION = re.compile(
    r"(?:stages\.(?P<stage>[\w-]+)\.(?P<of_stage>policy|rollout)|data\.(?P<of_data>first_stage))\.(?P<key>.+)"
)
"""An override inside a setting that is one of several records, by its `kind`."""


def is_inside(override: Override) -> bool:
    """Whether an override is of a setting inside such a record."""
    return override.type is not OverrideType.DEL and UNION.fullmatch(override.key_or_group) is not None


def override(raw: dict[str, Any], overrides: Sequence[Override]) -> None:
    """Apply overrides to a composed configuration.

    Hydra cannot override a key of a word. Where the command line names another kind than the file, the file's
    settings of the former kind go: they mean nothing to the new one.
    """
    # A kind first, wherever it stands: settings before it belong to it as well.
    for one in sorted(overrides, key=lambda o: not o.key_or_group.endswith(".kind")):
        match = UNION.fullmatch(one.key_or_group)
        assert match is not None
        owner = raw["data"] if match["of_data"] else _stage(raw, match["stage"], one.key_or_group)
        union = match["of_data"] or match["of_stage"]
        node = owner.get(union)
        node = {"kind": node} if isinstance(node, str) else dict(node or {})
        if match["key"] == "kind" and node.get("kind") != one.value():
            node = {}
        OmegaConf.update(merged := OmegaConf.create(node), match["key"], one.value(), force_add=True)
        owner[union] = OmegaConf.to_container(merged)


def _stage(raw: dict[str, Any], name: str, setting: str) -> dict[str, Any]:
    stages = raw.get("stages")
    stage = stages.get(name) if isinstance(stages, dict) else None
    if not isinstance(stage, dict):
        known = ", ".join(stages) if isinstance(stages, dict) else "none"
        raise ValueError(f"{setting} is set, but there is no stage {name!r}; there are: {known}")
    return stage
