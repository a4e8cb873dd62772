"""The name of a run's folder where none is given: variants of an experiment never meet in one folder."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType

from rl_rerank.config import Config
from rl_rerank.io import digest

FREE = ("run_dir", "stage", "dry_run", "push", "hub", "journal", "launcher", "report_to", "experiment")
"""Settings that no output depends on."""
NAMED = (
    *("data", "data.path", "data.first_stage", "data.first_stage.kind", "model", "model.path", "engine"),
    *("paradigm", "recipe", "budget", "scale", "seed"),
)
"""Settings that a folder's name spells out. All others are a part of its digest."""
DIGITS = 6


def variant(overrides: Sequence[Override], config: Config) -> str:
    """Return what follows the experiment's name: the settings of `NAMED`, and a digest of others that change output.

    Settings of a stage that the command line adds change no output of the others, so they do not count.

    Args:
        config: the configuration that the overrides lead to.
    """
    given = {o.key_or_group: o.value() for o in overrides if o.package is None}
    first_stage = given.get("data.first_stage")
    named = [
        Path(str(given["data.path"])).name if given.get("data.path") else given.get("data"),
        first_stage.get("kind") if isinstance(first_stage, dict) else first_stage,
        given.get("data.first_stage.kind"),
        Path(str(given["model.path"])).name if given.get("model.path") else given.get("model"),
        *(given.get(key) for key in ("engine", "paradigm", "recipe", "budget", "scale")),
        f"seed{given['seed']}" if "seed" in given else None,
    ]
    added = {match[1] for key in given if (match := re.fullmatch(r"stages\.([^.]+)\.kind", key))}
    others = sorted(
        [o.key_or_group, str(o.package), str(o.type), digest.of_json(o.value())]
        for o in overrides
        if not (o.key_or_group in NAMED and o.package is None and not isinstance(o.value(), dict))
        and _counts(o, config, added)
    )
    digests = [digest.of_json(others)[:DIGITS]] if others else []
    return "".join(f"-{name}" for name in [*named, *digests] if name)


def _counts(override: Override, config: Config, added: set[str]) -> bool:
    """Whether a stage's output may depend on an override."""
    first, *rest = override.key_or_group.split(".")
    if first in FREE:
        return False
    if first == "stages" and rest:
        name, *inner = rest
        if name in added or (override.type is OverrideType.DEL and not inner):
            return False
        stage = config.stages.get(name)
        if stage is not None and inner and inner[0] not in stage.recorded(asdict(stage)):
            return False
        return _is_answering(getattr(stage, "engine", None), inner)
    return _is_answering(config.engine, [first, *rest])


def _is_answering(engine: Any, keys: Sequence[str]) -> bool:
    """Whether a setting is none of an engine's, or one that its answers depend on; not its address or price."""
    if engine is None or len(keys) < 3 or list(keys[:2]) != ["engine", "args"]:
        return True
    found = engine.answering()
    return "args" in found or keys[2] in found
