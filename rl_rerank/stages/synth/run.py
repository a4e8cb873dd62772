"""Synthesis: take the training examples through the steps of a recipe, and write what training reads.

Left behind: examples.jsonl, which `data=jsonl` reads; rows.jsonl `{qid, paradigm, docids (prompt order), target,
teacher}`, which an sft stage reads; the outputs that are asked for; summary.json; and the data card, README.md and
index.html.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rl_rerank import data
from rl_rerank.config import Config
from rl_rerank.data import Store
from rl_rerank.data.examples import ExampleFile
from rl_rerank.io import digest
from rl_rerank.io.files import replacing_folder, write_json, write_jsonl, write_text
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.synth.spec import SynthStage
from rl_rerank.synthesis import card, rows, runner
from rl_rerank.synthesis.corpus_stats import Statistics
from rl_rerank.synthesis.runner import Outcome
from rl_rerank.synthesis.step import traits
from rl_rerank.synthesis.worker import build_steps

logger = logging.getLogger(__name__)


def run(config: Config, name: str, stage: SynthStage) -> None:
    """Do what is left of the recipe, and write its outputs.

    Where it stops before its end (a budget, a teacher that fails, a full disk) they are written from what there is, and
    the stage is not done: the same command goes on.

    Raises:
        LookupError: if a step or a paradigm does not exist, or the data have no training split.
        ValueError: if it stopped before its end; if not one row comes out, though some were asked for.
    """
    build_steps(stage)
    for paradigm in stage.mixture:
        build_paradigm(config, paradigm)
    store = data.prepare(config.data, Path(config.run_dir) / "data")
    if stage.inputs == "queries":
        store.size("train")
    outcome = runner.run(config, name)
    summary = _write(config, name, stage, store, outcome)
    if outcome.stopped:
        raise ValueError(
            f"{name} stopped before its end: {outcome.stopped}. Its {summary['examples']} finished examples are "
            "written; the same command goes on from here"
        )
    if not any(made["rows"] for made in summary["paradigms"].values()) and any(stage.mixture.values()):
        raise ValueError(
            f"{name}: teacher={stage.teacher} made no row from {summary['examples']} examples: {summary['steps']}"
        )
    runner.clean(config, name)


def _write(config: Config, name: str, stage: SynthStage, store: Store, outcome: Outcome) -> dict[str, Any]:
    folder = Path(config.run_dir) / name
    _refuse_repeated(outcome, name)
    runner.merge(outcome.files, folder / "examples.jsonl")
    examples = ExampleFile(folder / "examples.jsonl")
    examples.lines.write(examples.path)
    made = dict.fromkeys(stage.mixture, 0)
    write_jsonl(folder / "rows.jsonl", _rows(config, name, stage, examples, made))
    if "retriever" in stage.outputs:
        found = (row for example in examples for row in rows.retriever(example))
        write_jsonl(folder / "retriever.jsonl", found)
    if "parquet" in stage.outputs:
        rows.parquet(examples, folder / "examples.parquet")
    summary: dict[str, Any] = {
        "teacher": stage.teacher,
        "seed": stage.seed,
        "data": store.fingerprint,
        "warnings": list(store.warnings),
        "examples": len(examples),
        "stopped": outcome.stopped,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "paradigms": {p: {"asked": stage.mixture[p], "rows": count} for p, count in made.items()},
        "steps": {step: dict(counts) for step, counts in outcome.record.counts.items()},
        "failures": outcome.record.failures,
        "statistics": Statistics.of(examples).to_json(),
        "files": {f.name: digest.of_file(f) for f in sorted(folder.iterdir()) if f.name in card.FILES},
    }
    usage = dict(outcome.record.usage)
    write_json(folder / "summary.json", summary | ({"usage": usage} if usage else {}))
    card.write(config, name, json.loads((folder / "summary.json").read_text(encoding="utf-8")), folder)
    return summary


def _rows(
    config: Config, name: str, stage: SynthStage, examples: ExampleFile, made: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Make the rows of all paradigms, and count them in `made`."""
    steps = [traits(step) for step in build_steps(stage).values()]
    for paradigm, count in stage.mixture.items():
        built = build_paradigm(config, paradigm)
        answered = any(step.answers == paradigm and not (step.ranks and built.continuations) for step in steps)
        for row in rows.sft(examples, paradigm, built, count, seed=stage.seed, answered=answered):
            made[paradigm] += 1
            yield row
        if made[paradigm] < count:
            logger.warning(
                "%s: %d %s rows of the %d asked for: %d training examples give no more",
                *(name, made[paradigm], paradigm, count, len(examples)),
            )


def _refuse_repeated(outcome: Outcome, name: str) -> None:
    seen: Counter[str] = Counter(runner.qids(outcome.files))
    if len(seen) < seen.total():
        [(qid, times)] = seen.most_common(1)
        raise ValueError(f"{name}: its steps gave {times} examples the qid {qid!r}; a qid is one example")


def hub_folder(config: Config, name: str, stage: SynthStage) -> Path:
    """The rows and a card in run_dir/<name>/hub, written whole or not at all.

    Raises:
        FileNotFoundError: if the stage has left no rows.
    """
    folder = Path(config.run_dir) / name
    if not (folder / "rows.jsonl").is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no rows.jsonl: remove it and run the stage again")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    sent = {"rows.jsonl": summary["files"]["rows.jsonl"]}
    with replacing_folder(folder / "hub") as partial:
        shutil.copyfile(folder / "rows.jsonl", partial / "rows.jsonl")
        write_text(partial / "README.md", card.markdown(config, name, {**summary, "files": sent}))
    return folder / "hub"
