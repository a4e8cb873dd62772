"""`rl-rerank serve`: settings from the command line to the server."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rl_rerank import requirements
from rl_rerank.config import ServeModel, build

TEXTS = frozenset(field.name for field in dataclasses.fields(ServeModel) if field.type in ("str", "str | None"))
"""Settings whose values are texts."""


def settings(overrides: Sequence[str]) -> ServeModel:
    """Read `KEY=VALUE` arguments; `engine=KIND` is short for `engine.kind=KIND`.

    Raises:
        ValueError: for an argument that does not read, an unknown setting or an invalid value.
    """
    for text in overrides:
        if "=" not in text:
            raise ValueError(f"cannot read {text!r}: a setting of serve is KEY=VALUE, such as model=DIR")
    texts: dict[str, Any] = {}
    others: list[str] = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key in TEXTS:  # As they are: `host=::` and `name=007` are other things in YAML.
            texts[key] = None if value in ("null", "") else value
        else:
            others.append(text.replace("engine=", "engine.kind=", 1) if key == "engine" else text)
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist(others), resolve=False)
    except (OmegaConfBaseException, YAMLError) as e:
        raise ValueError(f"serve: cannot read the settings {' '.join(others)}: {e}") from None
    assert isinstance(values, dict)
    return build(ServeModel, {**texts, **{str(key): value for key, value in values.items()}})


def run(command: str, overrides: list[str], config_dir: str | None) -> int:
    """Serve until a signal ends it."""
    requirements.load("rl_rerank.serving.server.process", command).serve(settings(overrides))
    return 0
