"""What --help prints."""

import dataclasses
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

from rl_rerank import registry
from rl_rerank.experiment.compose import options

HELP = Path(__file__).parent / "help"
"""usage.txt, and COMMAND.txt for commands that say more than their stage does."""


def usage(config_dir: str | None) -> str:
    """The help of the command line as a whole."""
    kinds = {kind: registry.find("stage", kind) for kind in registry.names("stage")}
    stages = "\n".join(f"  {kind:<10} {_first_line(cls)}" for kind, cls in kinds.items())
    indent = " " * 32
    experiments = textwrap.fill(
        ", ".join(options("experiment", config_dir)), 120, initial_indent=indent, subsequent_indent=indent
    )
    return (HELP / "usage.txt").read_text(encoding="utf-8").format(stages=stages, experiments=experiments)


def of_command(command: str) -> str:
    """The help of one command. Those that run a stage list its settings."""
    file = HELP / f"{command}.txt"
    own = file.read_text(encoding="utf-8") if file.is_file() else ""
    text = own or f"usage: rl-rerank {command} experiment=NAME [KEY=VALUE ...] [stage=NAME]\n\n"
    if command not in registry.names("stage"):
        return text
    stage = registry.find("stage", command)
    if not own:
        text += f"{_first_line(stage)} stage=NAME chooses among several stages of this kind.\n"
    fields = [f for f in dataclasses.fields(stage) if f.name != "kind"]
    settings = "".join(f"  stages.NAME.{f.name}={_default(f)}\n" for f in fields)
    return f"{text}\nsettings of the stage, with their defaults\n{settings}"


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if value is dataclasses.MISSING:
        return "(required)"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.dumps(value) if not isinstance(value, str) else value


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]
