"""Finding plugins by name: rewards, paradigms, sources, synthesis steps and checks of a run."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

KINDS = ("reward", "paradigm", "source", "step", "check")


def names(kind: str) -> list[str]:
    """The names of the installed plugins of `kind`, sorted."""
    return sorted({p.name for p in entry_points(group=f"rl_rerank.{kind}")})


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
        declared = {p.name: p for p in entry_points(group=group)}
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
    except (ImportError, AttributeError) as e:
        raise ImportError(f"{kind} {name!r} is declared as {plugin.value!r} but does not import: {e}") from e


def _from_file(kind: str, name: str) -> Any:
    file, attribute = name.rsplit(":", 1)
    path = Path(file).resolve()
    if not path.is_file():
        raise LookupError(f"{kind} {name!r}: there is no file {str(path)!r}")
    module_name = f"rl_rerank_user_{path.stem}_{abs(hash(str(path)))}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except (ImportError, SyntaxError) as e:
            del sys.modules[module_name]
            raise ImportError(f"{kind} {name!r}: {str(path)!r} does not import: {e}") from e
    if not hasattr(sys.modules[module_name], attribute):
        raise ImportError(f"{kind} {name!r}: {str(path)!r} defines no {attribute!r}")
    return getattr(sys.modules[module_name], attribute)


def build(kind: str, name: str, params: Mapping[str, Any], *, target: str | None = None) -> Any:
    """Construct the plugin `name` (or `target`, where given) with `params`.

    Raises:
        ValueError: if `params` names something that is no field of the plugin; the message lists the fields.
    """
    plugin = find(kind, target or name)
    if isinstance(plugin, type) and dataclasses.is_dataclass(plugin):
        fields = [f.name for f in dataclasses.fields(plugin) if f.init]
        if unknown := sorted(set(params) - set(fields)):
            raise ValueError(f"{kind} {name!r} has no parameter {unknown[0]!r}; it has: {', '.join(fields) or 'none'}")
        given = {*defaults(kind, target or name), *params}
        if missing := [field for field in fields if field not in given]:
            raise ValueError(f"{kind} {name!r} needs its parameter {missing[0]!r}, which has no default")
    return plugin(**params)


def defaults(kind: str, name: str) -> dict[str, Any]:
    """The parameters of a dataclass plugin with their default values; required ones are absent."""
    plugin = find(kind, name)
    if not dataclasses.is_dataclass(plugin):
        return {}
    found: dict[str, Any] = {}
    for field in dataclasses.fields(plugin):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found
