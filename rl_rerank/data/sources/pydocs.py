"""The embedded collection: documentation search over the docstrings of the installed numpy and scipy.

The query is a function's one-line summary. The document is the rest of its documentation without its See Also section,
under the function's name. Grade 2 is the same function, grade 1 a function that See Also names.
"""

import importlib
import inspect
import logging
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from rl_rerank.data import near_duplicates
from rl_rerank.data.records import Collection, Document, Omissions, Query
from rl_rerank.data.sources.docstrings import Docstring, parse, without_names

MIN_WORDS = 4
"""Shorter summaries and documents say too little to be searched for."""
_NOT_DOCUMENTATION = {"tests", "conftest", "setup", "distutils", "f2py", "core"}

log = logging.getLogger(__name__)


@dataclass
class Entry:
    """One documented object under all its names."""

    doc: Docstring
    names: list[str] = field(default_factory=list)
    """Dotted public names; the first is the docid."""
    text: str = ""


@dataclass(frozen=True)
class PyDocs:
    """Documentation search over installed packages."""

    packages: tuple[str, ...] = ("numpy", "scipy")
    """Importable packages or modules. They are imported, so name only what you trust."""
    names: bool = True
    """Whether documents have their function's name as a title. Without it the task is much harder: nothing but the
    description separates similar functions. In the text itself the name never stands."""

    def __post_init__(self) -> None:
        if isinstance(self.packages, str):
            raise ValueError(f"data.params.packages must be a list such as [numpy,scipy]; got {self.packages!r}")

    def read(self) -> Collection:
        """Walk the packages. About 2,200 queries for numpy and scipy, in seconds."""
        found = entries(self.packages)
        queries, qrels = _queries(found)
        if not queries:
            raise ValueError(
                f"data.params.packages={list(self.packages)} has no docstring that makes a query; "
                "Python started with -OO drops them all"
            )
        omissions = Omissions()
        for entry in found:
            if not entry.text:
                omissions.add("docstrings left out, because they have a summary and nothing else", entry.names[0])
        documents = {
            entry.names[0]: Document(entry.names[0].rsplit(".", 1)[1] if self.names else "", entry.text)
            for entry in found
            if entry.text
        }
        return Collection(documents, _clustered(queries, qrels, documents), qrels, warnings=omissions.sentences())

    def state(self) -> str:
        """The packages' versions."""
        return ", ".join(f"{package}=={_version(package)}" for package in self.packages)


def entries(packages: Sequence[str]) -> list[Entry]:
    """The documented objects, sorted by docid. Aliases, and objects with the same docstring, are one entry."""
    roots = tuple({package.split(".")[0] for package in packages})
    by_text: dict[str, Entry] = {}
    # All imports come first, because some modules replace members of others while they are imported.
    for module in [module for package in packages for module in _modules(package)]:
        for name, text in _members(module, roots):
            entry = by_text.get(text)
            if entry is None:
                entry = by_text[text] = Entry(parse(text))
            entry.names.append(f"{module.__name__}.{name}")
    for entry in by_text.values():
        entry.names = sorted(set(entry.names), key=lambda name: (name.count("."), name))
        text = without_names(entry.doc.body, {name.rsplit(".", 1)[1] for name in entry.names})
        entry.text = text if len(text.split()) >= MIN_WORDS else ""
    return sorted(by_text.values(), key=lambda entry: entry.names[0])


def _modules(name: str) -> Iterator[ModuleType]:
    """The module and its public submodules."""
    with warnings.catch_warnings():
        # Deprecated namespaces warn as soon as they are touched.
        warnings.simplefilter("ignore")
        module = importlib.import_module(name)
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if found.name.startswith("_") or found.name in _NOT_DOCUMENTATION:
            continue
        try:
            yield from _modules(f"{name}.{found.name}")
        except ImportError as e:
            # Parts of a package may need what is not installed.
            log.info("%s.%s is left out, because it does not import: %s", name, found.name, e)


def _members(module: ModuleType, roots: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(name, docstring) of the public functions, classes and ufuncs of a module that are the packages' own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(set(getattr(module, "__all__", None) or dir(module))):
            member = getattr(module, name, None)
            if name.startswith("_") or not callable(member) or not _is_own(member, roots):
                continue
            if text := inspect.getdoc(member):
                yield name, text


def _is_own(member: Any, roots: tuple[str, ...]) -> bool:
    # Ufuncs and some functions written in C know no module; what is imported from elsewhere does.
    home = getattr(member, "__module__", None)
    return not isinstance(home, str) or home.split(".")[0].lstrip("_") in roots


def _queries(entries: list[Entry]) -> tuple[list[Query], dict[str, dict[str, int]]]:
    """One query for each different summary, with its judgments."""
    known = {name: entry for entry in entries for name in entry.names}
    twins: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.text and len(entry.doc.summary.split()) >= MIN_WORDS:
            twins.setdefault(entry.doc.summary.casefold().rstrip(" ."), []).append(entry)
    queries: list[Query] = []
    qrels: dict[str, dict[str, int]] = {}
    for same in twins.values():
        qid = f"q:{same[0].names[0]}"
        queries.append(Query(qid, same[0].doc.summary))
        related = [target for entry in same for target in _related(entry, known)]
        qrels[qid] = {entry.names[0]: 1 for entry in related} | {entry.names[0]: 2 for entry in same}
    return queries, qrels


def _related(entry: Entry, known: dict[str, Entry]) -> Iterator[Entry]:
    """The entries that See Also names, looked up from the module of the entry outwards."""
    for written in entry.doc.see_also:
        for name in entry.names:
            parts = name.split(".")[:-1]
            scopes = [".".join(parts[:size]) for size in range(len(parts), 0, -1)]
            found = [known[full] for full in (*(f"{scope}.{written}" for scope in scopes), written) if full in known]
            if found:
                if found[0].text:
                    yield found[0]
                break


def _clustered(queries: list[Query], qrels: dict[str, dict[str, int]], documents: dict[str, Document]) -> list[Query]:
    """The queries with a cluster each, such that near duplicates of a sought document are sought in one split only."""
    cluster = near_duplicates.clusters({docid: document.text for docid, document in documents.items()})
    union = near_duplicates.Union(documents)
    for query in queries:
        first, *others = [cluster[docid] for docid, grade in qrels[query.qid].items() if grade == 2]
        for other in others:
            union.join(first, other)
    grade_2 = {query.qid: next(d for d, grade in qrels[query.qid].items() if grade == 2) for query in queries}
    return [query._replace(cluster=union.find(cluster[grade_2[query.qid]])) for query in queries]


def _version(package: str) -> str:
    try:
        return version(package.split(".")[0])
    except PackageNotFoundError:
        return "unknown"
