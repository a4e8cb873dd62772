"""Whether the model's tokenizer and chat template fit the experiment, known before any stage has started."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rl_rerank import requirements
from rl_rerank.config import ModelConfig
from rl_rerank.experiment.experiment import ResolvedStage
from rl_rerank.paradigms.base import check_template, members
from rl_rerank.prompts.rendering import Renderer


def check(model: ModelConfig, tokenizer: Any, stages: Iterable[ResolvedStage]) -> None:
    """Refuse stages whose answers would not stand where they are read.

    Args:
        tokenizer: the model's own.
        stages: those whose prompts it renders.

    Raises:
        ValueError: naming the stage, the template, the paradigm and the settings that help; or for a tokenizer with
            more tokens than the model.
    """
    tokenizers = requirements.load("rl_rerank.engines.local.tokenizer", "model.path")
    tokenizers.check_size(tokenizer, Path(model.path).expanduser())
    renderer = Renderer(tokenizer, max_prompt_tokens=model.max_prompt_tokens, template_kwargs=model.template_kwargs)
    for stage in stages:
        for paradigm in (member for named in stage.paradigms.values() for member in members(named).values()):
            try:
                check_template(paradigm, renderer)
            except ValueError as e:
                raise ValueError(f"stages.{stage.name}: {e}") from None
