"""The prompts of a stage before it starts: rendered with the run's data and the model's tokenizer, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rl_rerank.data import Store
from rl_rerank.data.indexed import longest
from rl_rerank.paradigms.base import members, traits
from rl_rerank.prompts import images
from rl_rerank.prompts.messages import images as images_of
from rl_rerank.prompts.messages import require_text
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking import long_documents
from rl_rerank.ranking.driver import shuffled
from rl_rerank.training.loop import lengths

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

    def refuse_unshown(self, name: str, split: str, paradigms: Iterable[Paradigm]) -> None:
        """Refuse documents of a split of which prompts would show nothing, and files that are no images.

        Raises:
            ValueError: naming the stage `name`, the query and the document, or the file.
        """
        shown = {traits(member).shown for paradigm in paradigms for member in members(paradigm).values()}
        sees, opened = bool(shown - {"text"}), set[str]()
        for example in self.store.examples(split) if sees or self.store.has_images else ():
            for candidate in example.candidates:
                try:
                    if "text" in shown:
                        require_text(candidate)
                    for segment in images_of(candidate) if sees else ():
                        if segment.image not in opened:
                            images.check(segment.image)
                        opened.add(segment.image)
                except ValueError as e:
                    raise ValueError(f"stages.{name}, split {split!r}: query {example.qid!r}: {e}") from e

    def render_longest(self, name: str, protocol: RerankStage, paradigm: Paradigm) -> None:
        """Render the first prompts of the longest queries of a split as a rerank stage will ask them.

        Raises:
            ValueError: naming the stage `name` and the query, if a prompt does not fit the budget.
        """
        if protocol.split not in self.store.splits:
            return  # the stage says so
        self.refuse_unshown(name, protocol.split, [paradigm])
        if self.is_estimate:
            return
        model = self.config.model
        renderer = Renderer(
            self.tokenizer,
            max_prompt_tokens=model.max_prompt_tokens,
            max_passage_tokens=model.max_passage_tokens,
            template_kwargs=model.template_kwargs,
            **lengths.sight(model),
        )
        examples = self.store.examples(protocol.split)
        for example in map(examples.__getitem__, longest(examples, RENDERED)):
            shown = shuffled(long_documents.view(example, protocol.long_documents).example, protocol.seed)
            for prompt in next(paradigm.strategy(shown), ()):
                try:
                    renderer(prompt)
                except ValueError as e:
                    raise ValueError(f"stages.{name}, split {protocol.split!r}: {e}") from e
