"""What a check is given and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rl_rerank.config import Config
from rl_rerank.data import Store
from rl_rerank.data.indexed import IndexedExamples
from rl_rerank.evaluation import answers
from rl_rerank.io import rotated
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.stages.plugins import Plugins
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.types import RankingExample


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """What should hold, in a few words."""
    passed: bool
    found: str
    """The numbers that it was decided by."""
    is_quality: bool = False
    """Whether it depends on how well a model does, not on the mechanism alone."""


class Check(Protocol):
    """Look at a run whose earlier stages are done. Free of torch. The fields of `CheckTraits` are optional."""

    def __call__(self, run: Run, /) -> list[Finding]:
        """
        Raises:
            LookupError, FileNotFoundError: if a stage or a file that it needs is not there.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTraits:
    """Optional attributes of a check."""

    refuse: Callable[[Run], None] | None = None
    """Raises LookupError or ValueError for stages and parameters that it cannot look at; called before any work, when
    the run has its configuration only."""


class _ByQid(Mapping[str, RankingExample]):
    """Examples by their qids, each read when it is looked up."""

    def __init__(self, examples: IndexedExamples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[str]:
        return (example.qid for example in self._examples.outlines())

    def __getitem__(self, qid: str) -> RankingExample:
        place = self._examples.place(qid)
        if place is None:
            raise KeyError(qid)
        return self._examples[place]


@dataclass(frozen=True)
class Run:
    """A run's configuration and what its stages have left."""

    config: Config
    plugins: Plugins

    @cached_property
    def store(self) -> Store:
        """The run's queries and judgments."""
        return Store(Path(self.config.run_dir) / "data")

    def rows(self, stage: str, file: str) -> list[dict[str, Any]]:
        """The rows of one of a stage's JSON-lines files.

        Raises:
            FileNotFoundError: if the stage has not written it.
        """
        return rotated.read(self.file(stage, file))

    def file(self, stage: str, file: str) -> Path:
        """A file of a stage's folder, which must exist."""
        path = Path(self.config.run_dir) / stage / file
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; a check reads what the stage {stage!r} writes there")
        return path

    def rerank(self, stage: str) -> RerankStage:
        """A rerank stage's settings.

        Raises:
            LookupError: if there is no rerank stage of this name.
        """
        found = self.config.stages.get(stage)
        if not isinstance(found, RerankStage):
            raise LookupError(f"a check names the rerank stage {stage!r}, which the experiment does not have before it")
        return found

    def ranked_by_model(self, stage: str) -> RerankStage:
        """A rerank stage's settings, if its rankings are those of a model alone.

        Raises:
            LookupError: if there is no rerank stage of this name.
            ValueError: if it asks no model, or fuses what the model says.
        """
        found = self.rerank(stage)
        if not found.asks_model or found.fusion is not None:
            raise ValueError(f"a check names the rerank stage {stage!r}, whose rankings are not those of a model alone")
        return found

    def paradigm(self, stage: str) -> Paradigm:
        """What a rerank stage asked with."""
        return self.built(self.rerank(stage).paradigm or self.config.paradigm)

    def built(self, paradigm: str) -> Paradigm:
        """A paradigm by its name in the configuration."""
        return self.plugins.paradigm(paradigm)

    def examples(self, stage: str) -> Mapping[str, RankingExample]:
        """qid -> what a rerank stage ranked, candidates in first-stage order."""
        return _ByQid(self.store.examples(self.rerank(stage).split))

    def asked(self, stage: str) -> dict[str, list[dict[str, Any]]]:
        """qid -> the rows of a rerank stage's prompts and answers, in the order in which they were asked."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in answers.read(self.file(stage, answers.ROLLOUTS).parent):
            found.setdefault(row["qid"], []).append(row)
        return found
