"""An exported folder in an engine of ours, as `Reranker` asks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rl_rerank.config import ModelConfig
from rl_rerank.engines.base import Engine
from rl_rerank.engines.local.tokenizer import renderer
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.serving.contract import Contract, GoldenScores
from rl_rerank.serving.scores import golden, prompts


class EngineDoor:
    """Scores golden entries by an engine."""

    def __init__(self, terms: Contract, engine: Engine, render: Renderer) -> None:
        self.terms = terms
        self.paradigm = terms.build_paradigm()
        self.engine = engine
        self.render = render

    def answer(self, entry: GoldenScores) -> GoldenScores:
        """Score an entry with its prompts."""
        how = self.terms.long_documents
        return golden(self.paradigm, self.engine, self.render, how, entry.query, entry.documents)

    def problems(self, golden: Sequence[GoldenScores]) -> Iterator[str]:
        """None: the engine has no settings of its own."""
        return iter(())

    def close(self) -> None:
        self.engine.close()


def rendering(folder: Path, terms: Contract, trust_remote_code: bool) -> Renderer:
    """Build the renderer of the folder's tokenizer, with the contract's budgets."""
    model = ModelConfig(
        path=str(folder),
        trust_remote_code=trust_remote_code,
        max_prompt_tokens=terms.max_prompt_tokens,
        max_passage_tokens=terms.max_passage_tokens,
        template_kwargs=terms.template_kwargs,
    )
    return renderer(model, folder)


def shown(terms: Contract, render: Renderer, entry: GoldenScores) -> GoldenScores:
    """Render an entry's prompts, with the scores that it has, before any weights are read."""
    paradigm, how = terms.build_paradigm(), terms.long_documents
    rendered = prompts(paradigm, render, how, entry.query, entry.documents) if entry.prompts else []
    return GoldenScores(query=entry.query, documents=entry.documents, scores=entry.scores, prompts=rendered)
