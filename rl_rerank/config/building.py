"""Strict construction of dataclasses from plain values."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from rl_rerank import registry

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], place: str = "") -> T:
    """Construct the dataclass `cls` from nested plain values, strictly.

    A class may have three optional attributes. The static method `chosen` maps a value and its place to the class that
    the value describes. A true `has_shorthand` makes a bare word short for `{kind: WORD}`. `moved` maps former names of
    settings to their current places, for the error.

    Raises:
        ValueError: with the place, for an unknown key, a missing required one or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    moved: Mapping[str, str] = getattr(cls, "moved", {})
    for key in values:
        if key in moved:
            raise ValueError(f"{place}{key} is now {place}{moved[key]}")
        if key not in fields:
            raise ValueError(unknown_key(f"{place}{key}", key, fields))
    built = {key: _convert(hints[key], value, f"{place}{key}") for key, value in values.items()}
    required = {
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - built.keys()):
        raise ValueError(f"{place}{missing[0]} is required; give {place}{missing[0]}=VALUE")
    return cls(**built)


def unknown_key(place: str, key: str, known: typing.Iterable[str]) -> str:
    """Format the error for an unknown key."""
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no setting {place!r}.{hint} Here you can set: {', '.join(known) or 'nothing'}."


def _convert(hint: Any, value: Any, place: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        hints = [a for a in args if a is not type(None)]
        # Of a union such as int | Literal["auto"], a named value is the literal.
        is_named = isinstance(value, str | int | float)
        if named := [a for a in hints if is_named and typing.get_origin(a) is Literal and value in typing.get_args(a)]:
            return _convert(named[0], value, place)
        # Of a union such as str | list[str], a list is the list, and anything else the other. Of one such as
        # float | Record, a mapping is the record.
        fitting = [
            a
            for a in hints
            if (typing.get_origin(a) is list) == isinstance(value, list)
            and dataclasses.is_dataclass(a) == isinstance(value, Mapping)
        ]
        return _convert((fitting or hints)[0], value, place)
    if isinstance(value, str) and getattr(hint, "has_shorthand", False):
        value = {"kind": value}
    if choose := getattr(hint, "chosen", None):
        hint = choose(value, place)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} must be a mapping; got {value!r}")
        return build(typing.cast(type, hint), value, f"{place}.")
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} must be a mapping; got {value!r}")
        return {str(k): _convert(args[1], v, f"{place}.{k}") for k, v in value.items()}
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{place} must be a list such as [a,b]; got {value!r}")
        return [_convert(args[0], v, f"{place}[{i}]") for i, v in enumerate(value)]
    if origin is Literal:
        one_of(place, value, args)
        return value
    if hint is Any:
        return value
    return registry.scalar(hint, value, place)


def one_of(place: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not allowed."""
    if value not in allowed:
        raise ValueError(f"{place} must be one of {', '.join(allowed)}; got {value!r}")


def at_least(place: str, settings: object, **lowest: float) -> None:
    """Refuse numbers that are too low; None means not set.

    Args:
        place: beginning of the error.
        lowest: a setting's name -> its minimum.
    """
    for name, low in lowest.items():
        value = getattr(settings, name)
        if value is not None and value < low:
            raise ValueError(f"{place}: {name} must be at least {low}; got {value}")
