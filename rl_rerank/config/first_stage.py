"""The base class of first stages: retrievers that find the candidates in the whole collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rl_rerank import registry

if TYPE_CHECKING:
    from rl_rerank.data.records import Document, Query


@dataclass(kw_only=True)
class FirstStageConfig:
    """A retriever and its settings. The bare word `first_stage=dense` stands for `first_stage={kind: dense}`.

    A kind of first stage is a subclass under the entry point `rl_rerank.first_stage`, free of model libraries.
    """

    kind: str
    """bm25, dense, hybrid, or the name of an installed plugin."""

    has_shorthand: ClassVar[bool] = True

    @staticmethod
    def chosen(value: Any, place: str) -> type[FirstStageConfig]:
        """Find the class of the first stage that a mapping with `kind` describes."""
        kind, known = value.get("kind") if isinstance(value, Mapping) else None, registry.names("first_stage")
        if kind not in known:
            raise ValueError(f"{place}.kind must be one of {', '.join(known)}; got {kind!r}")
        return registry.find("first_stage", str(kind))

    def check(self, place: str) -> None:
        """Refuse settings that name something missing, before any work.

        Args:
            place: beginning of the error, `data.first_stage`.
        """

    def state(self) -> str:
        """Return a text that changes if the same settings may give other candidates, such as a model's digest."""
        return ""

    def retrieve(
        self,
        documents: Mapping[str, Document],
        queries: Sequence[Query],
        *,
        depth: int,
        excluded: Mapping[str, Set[str]],
        language: str,
        cache: Path,
    ) -> Mapping[str, Sequence[tuple[str, float | None]]]:
        """Find the `depth` best documents of each query.

        Args:
            excluded: qid -> docids that are passed over.
            language: code of the texts' language, `data.language`.
            cache: a folder of the run in which intermediate results can stay.

        Returns:
            qid -> (docid, score), best first.
        """
        raise NotImplementedError
