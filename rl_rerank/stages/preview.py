"""The prompts of a stage before it starts: rendered with the run's data and the model's tokenizer, without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rl_rerank.data import Store
from rl_rerank.data.indexed import longest
from rl_rerank.prompts.messages import require_text
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking import long_documents
from rl_rerank.ranking.driver import shuffled

if TYPE_CHECKING:
    from rl_rerank.config import Config
    from rl_rerank.paradigms.base import Paradigm
    from rl_rerank.stages.rerank.spec import RerankStage

RENDERED = 20
"""Queries of a split that are rendered: the longest ones."""


@dataclass(frozen=True)
class Preview:
    """What a stage's prompts are made from."""

    config: Config
    store: Store
    tokenizer: Any
    is_estimate: bool
    """Whether the tokenizer is another model's, so that lengths are estimates and refuse nothing."""

    def refuse_images(self, name: str, split: str) -> None:
        """Refuse documents of a split that prompts would show as nothing.

        Raises:
            ValueError: naming the stage `name`, the query and the document.
        """
        for example in self.store.examples(split) if self.store.has_images else ():
            for candidate in example.candidates:
                try:
                    require_text(candidate)
                except ValueError as e:
                    raise ValueError(f"stages.{name}, split {split!r}: query {example.qid!r}: {e}") from e

    def render_longest(self, name: str, protocol: RerankStage, paradigm: Paradigm) -> None:
        """Render the first prompts of the longest queries of a split as a rerank stage will ask them.

        Raises:
            ValueError: naming the stage `name` and the query, if a prompt does not fit the budget.
        """
        if protocol.split not in self.store.splits:
            return  # the stage says so
        self.refuse_images(name, protocol.split)
        if self.is_estimate:
            return
        model = self.config.model
        renderer = Renderer(
            self.tokenizer,
            max_prompt_tokens=model.max_prompt_tokens,
            max_passage_tokens=model.max_passage_tokens,
            template_kwargs=model.template_kwargs,
        )
        examples = self.store.examples(protocol.split)
        for example in map(examples.__getitem__, longest(examples, RENDERED)):
            shown = shuffled(long_documents.view(example, protocol.long_documents).example, protocol.seed)
            for prompt in next(paradigm.strategy(shown), ()):
                try:
                    renderer(prompt)
                except ValueError as e:
                    raise ValueError(f"stages.{name}, split {protocol.split!r}: {e}") from e
