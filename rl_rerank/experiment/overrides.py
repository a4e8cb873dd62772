"""The overrides of a command line: `KEY=VALUE` in hydra's grammar, and paths as they are."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

TEXTS = ("path", "run_dir", "journal", "run", "label", "title")
"""Settings whose values are names and paths, which may hold any character."""
QUOTES = ("'", '"')


def parse(text: str) -> Override:
    """Read one override.

    The value of a setting of `TEXTS` is taken as it is, with `~` for the home folder; so is any other value that the
    grammar does not know, unless it begins like a list or a mapping.

    Raises:
        ValueError: for a text that is no override, and for several values.
    """
    key, equals, value = text.partition("=")
    if text.startswith("-"):
        meant = text.lstrip("-") + ("" if equals else "=VALUE")
        raise ValueError(f"cannot read {text!r} as KEY=VALUE: settings have no dashes, so write {meant}")
    if not equals and not text.startswith("~"):
        raise ValueError(
            f"cannot read {text!r} as KEY=VALUE: a setting has a name, such as experiment=NAME or data.path=FILE"
        )
    is_text = key.rpartition(".")[2].lstrip("+") in TEXTS
    if is_text and _is_plain(value):
        return _parsed(f"{key}={_quoted(os.path.expanduser(value) if value[:2] in ('~', '~/') else value)}")
    try:
        return _parsed(_quote_measures(text))
    except HydraException as e:
        if equals and value and value[0] not in "[{" and value[0] not in QUOTES and re.fullmatch(r"[+\w.@/-]+", key):
            return _parsed(f"{key}={_quoted(value)}")
        said = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise ValueError(
            f"cannot read {text!r} as KEY=VALUE ({said}); quote a value with special characters: "
            """'key="a=b, c"'"""
        ) from None


def split(text: str) -> list[str]:
    """Split at commas that are not inside parentheses: `P(rel=2)@5, nDCG(dcg='exp-log2')@10`."""
    return [item.strip() for item in re.split(r",(?![^(]*\))", text) if item.strip()]


def refuse_unknown_stages(stages: Any, overrides: Iterable[Override]) -> None:
    """Refuse settings of a stage that no file defines.

    Args:
        stages: the composed stages, by name.

    Raises:
        ValueError: with the stage that was meant.
    """
    if not isinstance(stages, Mapping):
        return
    known = [str(name) for name, stage in stages.items() if not isinstance(stage, Mapping) or "kind" in stage]
    for one in overrides:
        match = re.match(r"stages\.([^.]+)\.", one.key_or_group)
        if match is None or match[1] in known or one.type is OverrideType.DEL:
            continue
        close = difflib.get_close_matches(match[1], known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        there = ", ".join(known) or "none"
        raise ValueError(f"{one.key_or_group} is set, but there is no stage {match[1]!r}; there are: {there}.{hint}")


def _parsed(text: str) -> Override:
    override = OverridesParser.create().parse_override(text)
    if override.is_sweep_override():
        raise ValueError(f"{text!r} gives several values; write a list in brackets: '{text.split('=')[0]}=[a,b]'")
    override.value()
    return override


def _is_plain(value: str) -> bool:
    """Whether a value is to be taken as it is: neither quoted nor null, and without an interpolation."""
    is_quoted = len(value) > 1 and value[0] in QUOTES and value[-1] == value[0]
    return not is_quoted and value not in ("", "null") and "${" not in value


def _quoted(value: str) -> str:
    # Hydra reads backslashes in front of a quote as its escapes, and all others as they are.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{chr(92) * trailing}"'


def _quote_measures(text: str) -> str:
    """Quote the items of `measures=[AP(rel=2)]`, which hydra would read as a call of a function."""
    match = re.fullmatch(r"([\w.+]*measures)=\[(.*)\]", text)
    if not match or "(" not in text:
        return text
    items = [item if item[0] in QUOTES else '"' + item.replace('"', '\\"') + '"' for item in split(match[2])]
    return f"{match[1]}=[{','.join(items)}]"
