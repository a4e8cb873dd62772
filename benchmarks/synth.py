# ruff: noqa: T201 (a script whose output is its table)
"""Time and memory of synthesis as the data grow: oracle-labelled examples from 10 thousand to a million candidates.

    python benchmarks/synth.py [--candidates 10000 100000 1000000]

Each size is made as a file of queries with 20 candidates of 30 words, prepared as a store in a process of its own, and
labelled by `rank` with the oracle in another, whose processor time and peak memory are told.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rl_rerank import data
from rl_rerank.config import Config, DataConfig, PluginConfig
from rl_rerank.stages.synth import run as synth_stage
from rl_rerank.stages.synth.spec import SynthStage

PER_QUERY = 20
WORDS = 30


def write(path: Path, candidates: int) -> None:
    """Queries whose documents are random words."""
    rng = random.Random(0)
    words = [f"word{n}" for n in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for n in range(candidates // PER_QUERY):
            texts = [" ".join(rng.choices(words, k=WORDS)) for _ in range(PER_QUERY)]
            shown = [{"docid": f"{n}-{i}", "text": text} for i, text in enumerate(texts)]
            qrels = {f"{n}-{rng.randrange(PER_QUERY)}": 1}
            row = {"qid": f"q{n}", "query": f"query {n}", "split": "train", "candidates": shown, "qrels": qrels}
            file.write(json.dumps(row) + "\n")


def config(folder: Path) -> Config:
    """A run that labels whole lists of 20."""
    steps = {"rank": PluginConfig(params={"paradigm": "listwise"})}
    stage = SynthStage(kind="synth", steps=steps, noise=0.5, mixture={"listwise": 100})
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(source="jsonl", path=str(folder / "queries.jsonl"), depth=PER_QUERY),
        paradigms={"listwise": PluginConfig(params={"window": PER_QUERY})},
        stages={"synth": stage},
    )


def child(folder: Path, what: str) -> None:
    """One of the two processes of a size."""
    settings = config(folder)
    if what == "prepare":
        data.prepare(settings.data, Path(settings.run_dir) / "data")
        return
    started, spent = time.monotonic(), time.process_time()
    stage = settings.stages["synth"]
    assert isinstance(stage, SynthStage)
    synth_stage.run(settings, "synth", stage)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.monotonic() - started, time.process_time() - spent, peak]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--child", nargs=2)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), given.child[1])
        return
    print("| candidates | seconds | processor seconds | of these for 1,000 | peak MiB |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for candidates in given.candidates:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place) / "queries.jsonl", candidates)
            command = [sys.executable, __file__, "--child", place]
            subprocess.run([*command, "prepare"], check=True, capture_output=True)
            ended = subprocess.run([*command, "label"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            seconds, spent, peak = json.loads(ended.stdout)
            rate = 1000 * spent / candidates
            print(f"| {candidates:,} | {seconds:.1f} | {spent:.1f} | {rate:.3f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
