"""Finding plugins by name, building them, and reading what is optional on them.

A plugin is named three ways: as an entry point, as `package.module:Attribute`, or as `path/to/file.py:Attribute`. It
never crosses to another process itself: its name and parameters do, and it is built there, so one from a file works
everywhere.
"""

import dataclasses
import difflib
import importlib.util
import sys
import traceback
import types
import typing
from collections.abc import Collection, Mapping
from functools import cache
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

KINDS = ("reward", "paradigm", "source", "step", "loss", "check", "stage", "engine", "first_stage")


def names(kind: str) -> list[str]:
    """The names of the installed plugins of `kind`, sorted."""
    return sorted(_declared(kind, tuple(sys.path)))


@cache
def _declared(kind: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Entry points by name. Finding them reads the metadata of all that is installed, so it is done once for a path."""
    return {p.name: p for p in entry_points(group=f"rl_rerank.{kind}")}


def find(kind: str, name: str) -> Any:
    """Load the plugin `name` of `kind`.

    Args:
        kind: one of `KINDS`.
        name: an installed plugin's name, `package.module:Attribute`, or `path/to/file.py:Attribute`.

    Raises:
        LookupError: if no such plugin or file exists.
        ImportError: if it exists and does not import.
    """
    if ".py:" in name:
        return _from_file(kind, name)
    group = f"rl_rerank.{kind}"
    if ":" in name:
        plugin = EntryPoint(name=name, value=name, group=group)
    else:
        declared = _declared(kind, tuple(sys.path))
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise LookupError(
                f"no {kind} is named {name!r}; installed: {', '.join(sorted(declared)) or 'none'}.{hint} Declare it "
                f'under [project.entry-points."{group}"], or give "package.module:Attribute" or '
                '"path/to/file.py:Attribute".'
            )
        plugin = declared[name]
    try:
        return plugin.load()
    except Exception as e:
        raise ImportError(f"{kind} {name!r} is declared as {plugin.value!r} but does not import: {_told(e)}") from e


def _from_file(kind: str, name: str) -> Any:
    file, attribute = name.rsplit(":", 1)
    path = Path(file).resolve()
    if not path.is_file():
        raise LookupError(f"{kind} {name!r}: there is no file {str(path)!r}")
    # The same name in every process, so that instances can be told to be of one class.
    module_name = f"rl_rerank_user_{path.stem}_{sha256(str(path).encode()).hexdigest()[:16]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as e:
            del sys.modules[module_name]
            raise ImportError(f"{kind} {name!r}: '{path}{_line(e, path)}' does not import: {_told(e)}") from e
    if not hasattr(sys.modules[module_name], attribute):
        raise ImportError(f"{kind} {name!r}: {str(path)!r} defines no {attribute!r}")
    return getattr(sys.modules[module_name], attribute)


def _line(error: Exception, path: Path) -> str:
    """`:LINE` of a file where running it failed; empty if the error is not from there."""
    if isinstance(error, SyntaxError):
        found = [error.lineno] if error.filename == str(path) else []
    else:
        found = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f":{found[-1]}" if found else ""


def _told(error: Exception) -> str:
    """An error's message, with its type where it is not one of importing."""
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


def build(kind: str, name: str, params: Mapping[str, Any], *, target: str | None = None) -> Any:
    """Construct the plugin `name` (or `target`, where given) with `params`.

    Raises:
        ValueError: if `params` names something that is no field of the plugin, with its fields; or has a value of the
            wrong type.
    """
    plugin = find(kind, target or name)
    if isinstance(plugin, type) and dataclasses.is_dataclass(plugin):
        fields = [f.name for f in dataclasses.fields(plugin) if f.init]
        if unknown := sorted(set(params) - set(fields)):
            close = difflib.get_close_matches(unknown[0], fields, n=1)
            hint = f". Did you mean {close[0]!r}?" if close else ""
            known = ", ".join(fields) or "none"
            raise ValueError(f"{kind} {name!r} has no parameter {unknown[0]!r}; it has: {known}{hint}")
        given = {*defaults(kind, target or name), *params}
        if missing := [field for field in fields if field not in given]:
            raise ValueError(f"{kind} {name!r} needs its parameter {missing[0]!r}, which has no default")
        hints = _hints(plugin)
        params = {key: typed(hints.get(key), value, f"{kind} {name!r}: {key}") for key, value in params.items()}
    return plugin(**params)


def _hints(plugin: type) -> dict[str, Any]:
    """The types of a plugin's fields; none where its module imports them for type checking only."""
    try:
        return typing.get_type_hints(plugin)
    except NameError:
        return {}


def typed(hint: Any, value: Any, place: str) -> Any:
    """A value as `scalar` reads it where its type is a plain one, or such a type or None; others as they are."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = [kind for kind in (typing.get_args(hint) if is_union else (hint,)) if kind is not types.NoneType]
    if kinds not in ([str], [int], [float], [bool]) or (is_union and value is None):
        return value
    return scalar(kinds[0], value, place)


def scalar(kind: type, value: Any, place: str) -> Any:
    """A value of a configuration as a str, int, float or bool.

    A number is also a word, and a whole number is also a fraction: YAML reads `positive: 1` as a number.

    Raises:
        ValueError: with the place, for a value of another type.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and kind is str:
        return str(value)
    if is_number and kind is float:
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{place} must be of type {kind.__name__}; got {value!r}")
    return value


def defaults(kind: str, name: str) -> dict[str, Any]:
    """The parameters of a dataclass plugin with their default values; required ones are absent."""
    plugin = find(kind, name)
    if not dataclasses.is_dataclass(plugin):
        return {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(plugin):
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return values


def traits(record: type[T], plugin: object) -> T:
    """What a plugin says of itself in optional attributes, as a record; an absent one has the record's default.

    Args:
        record: a dataclass whose fields are the names of the attributes.
    """
    names = [field.name for field in dataclasses.fields(record)]  # pyright: ignore[reportArgumentType]
    return record(**{name: getattr(plugin, name) for name in names if hasattr(plugin, name)})


def refuse_misspelt(kind: str, name: str, plugin: object, known: Collection[str]) -> None:
    """Refuse a plugin with a public attribute that nothing reads and whose name is close to one that is read.

    Args:
        plugin: an instance.
        known: every name that the framework reads from plugins of this kind.

    Raises:
        ValueError: with the name that was meant.
    """
    parameters = {f.name for f in dataclasses.fields(plugin)} if dataclasses.is_dataclass(plugin) else set()
    for attribute in dir(type(plugin)) if not parameters else {*dir(type(plugin)), *parameters}:
        if attribute.startswith("_") or attribute in known:
            continue
        # A parameter may be called what its author likes: only what is all but the same is taken for a slip.
        cutoff = 0.9 if attribute in parameters else 0.8
        absent = [one for one in known if not hasattr(plugin, one)]
        if close := difflib.get_close_matches(attribute, absent, n=1, cutoff=cutoff):
            raise ValueError(
                f"the {kind} {name!r} ({type(plugin).__name__}) has {attribute!r}, which nothing reads; did you mean "
                f"{close[0]!r}? A name of your own must differ more, or begin with an underscore"
            )
