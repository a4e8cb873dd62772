"""An engine without a model: a document is as relevant as the share of the query's words that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rl_rerank.config import EngineKind, ModelConfig
from rl_rerank.engines.base import Engine
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.types import Prompt


@dataclass(kw_only=True)
class Overlap(EngineKind):
    """engine.kind=overlap: scores pointwise prompts by the words that query and document share."""

    has_own_model: ClassVar[bool] = True
    generates: ClassVar[bool] = False

    scale: float = 1.0
    """`engine.args.scale`: factor of the scores."""

    @property
    def requires(self) -> Sequence[str]:
        return ()

    def check(self, place: str, paradigm: Paradigm, advice: str) -> None:
        if paradigm.name != "pointwise":
            raise ValueError(
                f"{place}: engine.kind=overlap scores pointwise prompts alone; got {paradigm.name}{advice}"
            )

    def build(self, model: ModelConfig, folder: Path | None) -> Engine:
        def score(prompt: Prompt, continuation: str) -> float:
            return self.scale * _share(prompt) * (1 if continuation == "yes" else -1)

        return Scripted(lambda prompt: "", score)


def _share(prompt: Prompt) -> float:
    """The share of the query's words that the document has; text from outside has its field in the segment."""
    segments = [segment for message in prompt.messages for segment in message.segments if not segment.is_ours]
    query = {word for s in segments if s.field == "query" for word in s.text.lower().split()}
    document = {word for s in segments if s.docid is not None for word in s.text.lower().split()}
    return len(query & document) / max(len(query), 1)
