"""What can be known before the first stage: prompts that do not fit, documents that cannot be shown, refused arguments.

A dry run shows it. `rl-rerank run` does the same dry run in a process of its own before it starts anything.
"""

from __future__ import annotations

import heapq
import importlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rl_rerank import requirements
from rl_rerank.config import Config, ModelConfig
from rl_rerank.data import Store
from rl_rerank.data.prepare import prepare, reopened
from rl_rerank.experiment import templates
from rl_rerank.experiment.experiment import Experiment, ResolvedStage
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.prompts.messages import require_text
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking import long_documents
from rl_rerank.ranking.driver import shuffled
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.rerank.spec import RerankStage, reported_protocol
from rl_rerank.stages.training import TrainingStage
from rl_rerank.training.loop import lengths
from rl_rerank.training.loop.training_prompts import none_teaches
from rl_rerank.types import RankingExample

RENDERED = 20
"""Queries of a split that are rendered: the longest ones."""


def lines(experiment: Experiment, names: Sequence[str]) -> Iterator[str]:
    """Check the stages `names` and describe their prompt lengths, without writing to the run folder.

    Without the model's tokenizer, lengths are estimated with SmolLM2's, and nothing is refused because of them.

    Raises:
        ValueError: naming the stage, or the query and the document.
    """
    templates.check(experiment, names)
    stages = [experiment.stages[name] for name in names]
    yield from _arguments(experiment.config, stages)
    asking = [stage for stage in stages if isinstance(stage.settings, TrainingStage) or _asks_ours(experiment, stage)]
    if not asking:
        return
    try:
        tokenizer, is_estimate = _tokenizer(experiment.config.model)
    except ImportError as e:
        yield f"prompt lengths are not known: {e}"
        return
    if is_estimate:
        why = f"model.path={experiment.config.model.path!r} has no tokenizer on this machine"
        yield f"{why}; prompt lengths are estimates by SmolLM2's"
    with _store(experiment.config) as store:
        for stage in asking:
            yield from _prompts(experiment, stage, store, tokenizer, is_estimate=is_estimate)


def _arguments(config: Config, stages: Iterable[ResolvedStage]) -> Iterator[str]:
    """Build the trainer arguments of training stages, which trl and transformers check."""
    for stage in stages:
        if not isinstance(stage.settings, TrainingStage):
            continue
        try:
            requirements.check(stage.requires, f"stage {stage.name!r}")
            with tempfile.TemporaryDirectory() as elsewhere:
                arguments = stage.settings.arguments(config, Path(elsewhere) / stage.name)
            get_trackers = importlib.import_module("transformers.integrations").get_reporting_integration_callbacks
            get_trackers(arguments.report_to)
        except ImportError as e:
            yield f"trainer arguments of {stage.name} are not checked: {e}"
        except (TypeError, ValueError) as e:
            raise ValueError(f"stages.{stage.name}: {e}") from e


def _asks_ours(experiment: Experiment, stage: ResolvedStage) -> bool:
    """Whether a rerank stage renders prompts with the tokenizer of the experiment's model."""
    if not isinstance(stage.settings, RerankStage) or stage.engine is None:
        return False
    return not experiment.plugins.engine(stage.engine).has_own_model


def _tokenizer(model: ModelConfig) -> tuple[Any, bool]:
    try:
        return lengths.local_tokenizer(model), False
    except OSError:
        return lengths.local_tokenizer(ModelConfig()), True


@contextmanager
def _store(config: Config) -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as elsewhere:
        run_data = Path(config.run_dir) / "data"
        yield reopened(config.data, run_data) or prepare(config.data, Path(elsewhere) / "data")


def _prompts(
    experiment: Experiment, stage: ResolvedStage, store: Store, tokenizer: Any, *, is_estimate: bool
) -> Iterator[str]:
    config, settings = experiment.config, stage.settings
    if isinstance(settings, TrainingStage):
        examples = store.examples("train")
        _refuse_images(stage.name, "train", examples)
        measured = lengths.measure(config, stage.name, settings, store, tokenizer)
        if not measured.tokens and not _reads_made_examples(config, settings):
            raise none_teaches(examples, experiment.plugins.paradigm(), None)
        yield from replace(measured, estimate=is_estimate).lines()
    if isinstance(settings, GRPOStage) and settings.eval_steps is not None and "dev" in store.splits:
        protocol = reported_protocol(config, stage.name)
        dev, paradigm = replace(protocol, split="dev"), experiment.plugins.paradigm()
        _ranked(config, stage.name, dev, paradigm, store, tokenizer, is_estimate=is_estimate)
    if isinstance(settings, RerankStage):
        paradigm = experiment.plugins.paradigm(settings.paradigm)
        _ranked(config, stage.name, settings, paradigm, store, tokenizer, is_estimate=is_estimate)


def _reads_made_examples(config: Config, settings: TrainingStage) -> bool:
    """Whether it trains on what an earlier stage makes, whose prompts are not known yet."""
    return any(reference.needs == "examples" for reference in settings.references(config.before(settings)))


def _ranked(
    config: Config,
    name: str,
    protocol: RerankStage,
    paradigm: Paradigm,
    store: Store,
    tokenizer: Any,
    *,
    is_estimate: bool,
) -> None:
    """Render the first prompts of the longest queries as a rerank stage will ask them."""
    if protocol.split not in store.splits:
        return  # the stage says so
    examples = store.examples(protocol.split)
    _refuse_images(name, protocol.split, examples)
    if is_estimate:
        return
    model = config.model
    renderer = Renderer(
        tokenizer,
        max_prompt_tokens=model.max_prompt_tokens,
        max_passage_tokens=model.max_passage_tokens,
        template_kwargs=model.template_kwargs,
    )
    for example in heapq.nlargest(RENDERED, examples, key=lambda e: len(e.query) + len(e.instruction)):
        shown = shuffled(long_documents.view(example, protocol.long_documents).example, protocol.seed)
        for prompt in next(paradigm.strategy(shown), ()):
            try:
                renderer(prompt)
            except ValueError as e:
                raise ValueError(f"stages.{name}, split {protocol.split!r}: {e}") from e


def _refuse_images(name: str, split: str, examples: Iterable[RankingExample]) -> None:
    for example in examples:
        for candidate in example.candidates:
            try:
                require_text(candidate)
            except ValueError as e:
                raise ValueError(f"stages.{name}, split {split!r}: query {example.qid!r}: {e}") from e
