"""Synthesis: write training rows, prompts with the answers that a teacher gives.

Left behind: rows.jsonl `{qid, paradigm, docids (prompt order), target, teacher}` and summary.json.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rl_rerank import data, paths, registry
from rl_rerank.config import Config, SynthStage
from rl_rerank.engines.base import Engine
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.rerank import build_paradigm
from rl_rerank.serving import card
from rl_rerank.types import RankingExample

logger = logging.getLogger(__name__)


@dataclass
class StepContext:
    """What a step may use beside its arguments, and where it leaves its counts."""

    config: Config
    stage: SynthStage
    directory: Path
    """The stage's folder, for what a step keeps across a kill."""
    counts: Counter[str] = field(default_factory=Counter)
    """What became of the answers, by name, such as kept, malformed, filtered. Goes into summary.json."""
    engine: Engine | None = None
    """The engine that a step has built. The stage closes it after the last paradigm."""


class Step(Protocol):
    """A synthesis step: a frozen dataclass that is called once for each paradigm of the mixture.

    It yields rows `{qid, paradigm, docids, target, teacher}`, at least `count` of them where it can. The stage stops
    asking after `count` rows.
    """

    def __call__(
        self,
        examples: Sequence[RankingExample],
        paradigm_name: str,
        paradigm: Paradigm,
        count: int,
        context: StepContext,
        /,
    ) -> Iterator[dict[str, Any]]: ...


def run(config: Config, name: str, stage: SynthStage) -> None:
    """Let the teacher answer prompts made from the training split.

    Raises:
        LookupError: if no step is named `stage.teacher`, or the data have no training split.
        ValueError: if not one row comes out, though some were asked for.
    """
    step: Step = registry.build("step", stage.teacher, {})
    store = data.prepare(config.data, Path(config.run_dir) / "data")
    examples = store.examples("train")
    context = StepContext(config, stage, Path(config.run_dir) / name)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    try:
        for paradigm, count in stage.mixture.items():
            context.counts = Counter()
            answers = step(examples, paradigm, build_paradigm(config, paradigm), count, context)
            made = list(islice(answers, count))
            if len(made) < count:
                logger.warning(
                    "%s: %d %s rows of the %d asked for: %d training examples give no more",
                    *(name, len(made), paradigm, count, len(examples)),
                )
            rows.extend(made)
            summary[paradigm] = {"asked": count, "rows": len(made), **context.counts}
    finally:
        if context.engine is not None:
            context.engine.close()
    if not rows and any(stage.mixture.values()):
        raise ValueError(
            f"{name}: teacher={stage.teacher} made no row from {len(examples)} training examples: {summary}"
        )
    paths.write_jsonl(context.directory / "rows.jsonl", rows)
    usage = {} if context.engine is None else dict(context.engine.usage)
    about = {"teacher": stage.teacher, "seed": stage.seed, "data": store.fingerprint, "paradigms": summary}
    paths.write_json(context.directory / "summary.json", about | ({"usage": usage} if usage else {}))
    (context.directory / "rows.partial.jsonl").unlink(missing_ok=True)


def hub_folder(config: Config, name: str, stage: SynthStage) -> Path:
    """The rows and a card in run_dir/<name>/hub, written whole or not at all.

    Raises:
        FileNotFoundError: if the stage has left no rows.
    """
    folder = Path(config.run_dir) / name
    target, partial = folder / "hub", folder / ".hub.partial"
    if not (folder / "rows.jsonl").is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no rows.jsonl: remove it and run the stage again")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    shutil.copyfile(folder / "rows.jsonl", partial / "rows.jsonl")
    paths.write_text(partial / "README.md", card.dataset(config, name, summary))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target
