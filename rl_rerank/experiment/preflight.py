"""What can be known before the first stage: prompts and models that do not fit, documents that cannot be shown, refused
arguments.

A dry run shows it. `rl-rerank run` does the same dry run in a process of its own before it starts anything.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_rerank import requirements
from rl_rerank.config import Config, ModelConfig
from rl_rerank.data import Store
from rl_rerank.data.prepare import prepare, reopened
from rl_rerank.engines.local import hub
from rl_rerank.experiment import memory, templates
from rl_rerank.experiment.experiment import Experiment, ResolvedStage
from rl_rerank.stages.preview import Preview
from rl_rerank.training.loop import lengths

logger = logging.getLogger(__name__)


def lines(experiment: Experiment, names: Sequence[str]) -> Iterator[str]:
    """Check the stages `names` and describe their prompt lengths, without writing to the run folder.

    Without the model's tokenizer, lengths are estimated with SmolLM2's, and nothing is refused because of them.

    Raises:
        ValueError: naming the stage, or the query and the document.
    """
    config, plugins = experiment.config, experiment.plugins
    stages = [experiment.stages[name] for name in names]
    _refuse_paths(config, stages)
    _warn_of_contract(experiment, stages)
    yield from _arguments(config, stages)
    yield from _memory(experiment, names)
    rendering = [stage for stage in stages if stage.settings.renders(plugins)]
    if not rendering:
        return
    try:
        its_tokenizer, is_estimate = tokenizer(config.model)
    except ImportError as e:
        yield f"prompt lengths are not known: {e}"
        return
    if is_estimate:
        why = f"model.path={config.model.path!r} has no tokenizer on this machine"
        yield f"{why}; prompt lengths are estimates by SmolLM2's"
    else:
        templates.check(config.model, its_tokenizer, rendering)
    if config.data.first_stage is not None and reopened(config.data, Path(config.run_dir) / "data") is None:
        kind = config.data.first_stage.kind
        yield f"data.first_stage={kind} searches when the run starts; prompts here show the data's run, or BM25's"
    with opened(config) as store:
        preview = Preview(config, store, its_tokenizer, is_estimate)
        for stage in rendering:
            yield from stage.settings.preview(stage.name, plugins, preview)


def _refuse_paths(config: Config, stages: Iterable[ResolvedStage]) -> None:
    """Refuse a model folder that is not there, and a journal that cannot be written."""
    if any(s.settings.loads_model or s.settings.is_launched or s.engine is not None for s in stages):
        folder = Path(config.model.path).expanduser()
        if hub.is_folder(config.model.path) and not folder.is_dir():
            raise FileNotFoundError(f"model.path={config.model.path!r}: there is no folder {str(folder.absolute())!r}")
    if config.journal is not None:
        journal = Path(config.journal)
        place = next(parent for parent in journal.absolute().parents if parent.exists())
        if journal.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
            raise ValueError(f"journal={config.journal!r} is no file that can be written in {str(place)!r}")


def _warn_of_contract(experiment: Experiment, stages: Iterable[ResolvedStage]) -> None:
    """Warn where an exported model is asked otherwise than its `reranker.json` says."""
    config = experiment.config
    folder = Path(config.model.path).expanduser()
    if not (folder / "reranker.json").is_file() or not any(stage.engine is not None for stage in stages):
        return
    contract = importlib.import_module("rl_rerank.serving.contract")
    terms = contract.read(folder)
    given, asked = {"paradigm": config.paradigm}, {"paradigm": terms.paradigm}
    for name in ("max_prompt_tokens", "max_passage_tokens"):
        given[f"model.{name}"], asked[f"model.{name}"] = getattr(config.model, name), getattr(terms, name)
    if config.paradigm == terms.paradigm:
        paradigm = experiment.plugins.paradigm(config.paradigm)
        own = contract.parameters(paradigm) if dataclasses.is_dataclass(paradigm) else {}
        names = own.keys() & terms.paradigm_params.keys()
        given |= {f"paradigms.{config.paradigm}.params.{name}": own[name] for name in names}
        asked |= {f"paradigms.{config.paradigm}.params.{name}": terms.paradigm_params[name] for name in names}
    if changed := [f"{key}={given[key]} (exported with {asked[key]})" for key in given if given[key] != asked[key]]:
        logger.warning(
            "model.path=%s is an exported reranker, which is asked otherwise here than it was trained: %s",
            config.model.path,
            ", ".join(sorted(changed)),
        )


def _arguments(config: Config, stages: Iterable[ResolvedStage]) -> Iterator[str]:
    """Build the trainer arguments of training stages, which trl and transformers check."""
    for stage in stages:
        if not stage.settings.is_launched:
            continue
        try:
            requirements.check(stage.requires, f"stage {stage.name!r}")
            with tempfile.TemporaryDirectory() as elsewhere:
                arguments = stage.settings.arguments(config, Path(elsewhere) / stage.name)
            if arguments is not None:
                integrations = importlib.import_module("transformers.integrations")
                integrations.get_reporting_integration_callbacks(arguments.report_to)
        except ImportError as e:
            yield f"trainer arguments of {stage.name} are not checked: {e}"
        except (TypeError, ValueError) as e:
            raise ValueError(f"stages.{stage.name}: {e}") from e


def _memory(experiment: Experiment, names: Sequence[str]) -> Iterator[str]:
    """Estimate the memory of training stages on this machine, and refuse those that do not fit its GPUs."""
    try:
        for planned in memory.plan(experiment, names, None):
            if planned.refusal and planned.is_cuda:
                raise ValueError(f"stages.{planned.name}: {planned.refusal}")
            yield from planned.lines
    except ImportError as e:
        yield f"the memory of training stages is not known: {e}"


def tokenizer(model: ModelConfig) -> tuple[Any, bool]:
    """Load the model's tokenizer, or SmolLM2's where it is not on this machine, which the second value says.

    Raises:
        ImportError: if a package is missing.
    """
    try:
        return lengths.local_tokenizer(model), False
    except OSError:
        return lengths.local_tokenizer(ModelConfig()), True


@contextmanager
def opened(config: Config) -> Iterator[Store]:
    """The run's store, or one that is made for the moment, with candidates of the data's own run or of BM25."""
    found = reopened(config.data, Path(config.run_dir) / "data")
    with tempfile.TemporaryDirectory() as elsewhere:
        # Embedding a large collection may take hours, and a dry run leaves nothing of it.
        quick = dataclasses.replace(config.data, first_stage=None)
        yield found or prepare(quick, Path(elsewhere) / "data")
