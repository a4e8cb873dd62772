"""The embedded screening task: modules of the installed numpy and scipy as reviews, their functions as records.

A review's query is its module's name and title. All its records are judged: grade 1 are functions of the module, at
most one in ten, and the others are those of other families of modules that BM25 finds first, as a search would. A
record has a title, the function's summary, and an abstract, the rest of its documentation without the function's name.
"""

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl_rerank.data import bm25
from rl_rerank.data.records import Collection, Document, Query
from rl_rerank.data.sources.docstrings import plain, without_names
from rl_rerank.data.sources.pydocs import Entry, PyDocs, entries
from rl_rerank.data.splits import fraction

PREVALENCE = 0.1
"""The largest share of relevant records."""
_NOISE = re.compile(r"={3,}|-{3,}|\(.*?\)|\.\. _\w+:")


@dataclass(frozen=True)
class Reviews:
    """Screening over the documentation of installed packages."""

    packages: tuple[str, ...] = ("numpy", "scipy")
    """Importable packages. They are imported, so name only what you trust."""
    documents: int = 300
    """Records of a review."""
    relevant: int = 4
    """Fewest relevant records of a review."""

    def __post_init__(self) -> None:
        if self.documents * PREVALENCE < self.relevant:
            raise ValueError(
                f"data.params.documents={self.documents} has room for fewer than {self.relevant} relevant records, at "
                f"most {PREVALENCE:.0%} of all"
            )

    def read(self) -> Collection:
        """Walk the packages. About 100 reviews for numpy and scipy."""
        found = [entry for entry in entries(self.packages) if entry.text]
        documents = {entry.names[0]: Document(_title(entry), entry.text) for entry in found}
        members = _members(found, self.relevant)
        if not members:
            raise ValueError(
                f"data.params.packages={list(self.packages)} has no module of {self.relevant} documented functions"
            )
        queries = [Query(module, _query(module), cluster=_family(module)) for module in members]
        ranked = bm25.retrieve(documents, queries, depth=len(documents))
        qrels = {q: self._judged(q, docids, found, [d for d, _ in ranked[q]]) for q, docids in members.items()}
        return Collection(documents, queries, qrels, {q: _run(q, ranked[q], judged) for q, judged in qrels.items()})

    def state(self) -> str:
        """The packages' versions."""
        return PyDocs(self.packages).state()

    def _judged(
        self, module: str, docids: Sequence[str], found: Sequence[Entry], ranked: Sequence[str]
    ) -> dict[str, int]:
        family = _family(module)
        others = {e.names[0] for e in found if all(_family(name.rpartition(".")[0]) != family for name in e.names)}
        chosen = _by_hash(module, docids)[: int(self.documents * PREVALENCE)]
        first = [docid for docid in ranked if docid in others]
        further = _by_hash(module, sorted(others.difference(first)))
        return dict.fromkeys(chosen, 1) | dict.fromkeys([*first, *further][: self.documents - len(chosen)], 0)


def _members(found: Sequence[Entry], fewest: int) -> dict[str, list[str]]:
    """Module -> the docids of its functions, of modules that have enough and a topic of their own."""
    of: dict[str, list[str]] = {}
    for entry in found:
        for module in {name.rpartition(".")[0] for name in entry.names}:
            of.setdefault(module, []).append(entry.names[0])
    everywhere = {docid for module, docids in of.items() if "." not in module for docid in docids}
    return {
        module: docids
        for module, docids in sorted(of.items())
        # A module that repeats a package's own functions is about everything.
        if "." in module and len(docids) >= fewest and sum(docid in everywhere for docid in docids) * 2 <= len(docids)
    }


def _run(
    qid: str, ranked: Sequence[tuple[str, float | None]], judged: Mapping[str, int]
) -> list[tuple[str, float | None]]:
    """Every record of a review by BM25; those without a term of the query follow with the score 0."""
    scored = [(docid, score) for docid, score in ranked if docid in judged]
    unscored = _by_hash(qid, sorted(judged.keys() - {docid for docid, _ in scored}))
    return [*scored, *((docid, 0.0) for docid in unscored)]


def _title(entry: Entry) -> str:
    return without_names(entry.doc.summary, {name.rpartition(".")[2] for name in entry.names})


def _query(module: str) -> str:
    words = " ".join(module.split(".")[1:]).replace("_", " ")
    said = (inspect.getdoc(importlib.import_module(module)) or "").strip().partition("\n\n")[0]
    title = " ".join(_NOISE.sub(" ", plain(_NOISE.sub(" ", said))).split())
    return f"{words}: {title}" if title else words


def _family(module: str) -> str:
    """The first two parts of a module's name: scipy.stats.qmc is of the family of scipy.stats."""
    return ".".join(module.split(".")[:2])


def _by_hash(key: str, docids: Sequence[str]) -> list[str]:
    return sorted(docids, key=lambda docid: fraction(f"{key}:{docid}"))
