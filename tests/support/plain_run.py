"""A run whose stages need no model, with queries of four candidates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_rerank.cli.main import main

EXPERIMENT = """\
# @package _global_
stages:
  synth: {kind: synth, mixture: {listwise: 5}, outputs: [parquet, retriever]}
  first_stage: {kind: rerank, model: first_stage, label: BM25}
  shown: {kind: rerank, model: first_stage}
  evaluate: {kind: evaluate, comparisons: [[shown, first_stage]]}
  report: {kind: report}
"""
STAGES = ["synth", "first_stage", "shown", "evaluate", "report"]


def row(number: int) -> dict[str, Any]:
    split = ("train", "dev", "test")[number % 3]
    docids = [f"q{number}-{letter}" for letter in "abcd"]
    candidates = [{"docid": d, "text": f"text of {d} number {number * 7}"} for d in docids]
    grade = {docids[number % 4]: 1}
    return {
        "qid": f"q{number}",
        "query": f"question {number}",
        "candidates": candidates,
        "qrels": grade,
        "split": split,
    }


def stage_here(command: Sequence[str], **_: object) -> int:
    """Run a stage's command line in this process instead of one of its own."""
    return main(list(command[command.index("rl_rerank") + 1 :]))


def write(folder: Path) -> None:
    """Write the experiment and its data."""
    (folder / "conf/experiment").mkdir(parents=True)
    (folder / "conf/experiment/plain.yaml").write_text(EXPERIMENT)
    (folder / "data.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(12)))


def arguments(run_dir: str | Path) -> list[str]:
    """The command that runs it, in the folder that `write` has filled."""
    return ["run", "experiment=plain", "data=jsonl", "data.path=data.jsonl", f"run_dir={run_dir}"]


def results(run_dir: Path) -> dict[str, bytes]:
    """The files of a run that have no times and no paths in them."""
    patterns = ("data/*.jsonl", "data/*.npy", "*/run.trec", "*/rankings.jsonl", "*/table.md", "synth/*.parquet")
    found = [path for pattern in (*patterns, "synth/*.jsonl") for path in run_dir.glob(pattern)]
    return {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in found}
