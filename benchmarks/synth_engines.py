# ruff: noqa: T201 (a script whose output is its table)
"""The recipes of data synthesis with real teachers, and how often their answers are well formed.

    python benchmarks/synth_engines.py RUNS [FOLDER ...]

Every recipe runs as `rl-rerank synth` on the embedded data and on each FOLDER's collection: with the labels as teacher
on 200 queries, then with SmolLM2-135M on 10 queries of 10 candidates of 64 tokens, by vLLM in this process and by
vLLM's server, with constrained decoding, and by the server without it (free). Constrained answers cannot reason; nor do
the free ones here, so that both get the same prompts. What is finished in RUNS is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_rerank.config import ModelConfig
from rl_rerank.engines.local.checkpoint import base_model_dir

STEPS = "stages.synth.steps"
RECIPES: Mapping[str, Sequence[str]] = {
    "reasonrank": (
        f"{STEPS}.bm25.params.depth=10",
        f"{STEPS}.bands.params.size=10",
        "paradigms.listwise.params.window=10",
        "paradigms.listwise.params.stride=5",
    ),
    "grouprank": (f"{STEPS}.bands.params.bands=[[10,5],[200,5]]", f"{STEPS}.groups.params.largest=10"),
    "erank": (f"{STEPS}.bands.params.bands=[[10,5],[100,2],[1000,2]]",),
    "rank_r1": (f"{STEPS}.bands.params.bands=[[100,9]]",),
    "fullrank": (
        f"{STEPS}.bm25.params.depth=10",
        "paradigms.settled.params.window=6",
        "paradigms.settled.params.stride=3",
    ),
}
"""What makes them show 10 candidates."""
ASKED: Mapping[str, Sequence[str]] = {
    "reasonrank": ("listwise",),
    "grouprank": ("pointwise_graded", "whole_list", "groupwise"),
    "erank": ("pointwise_graded",),
    "rank_r1": (),
    "fullrank": ("settled",),
}
"""The paradigms that the teacher is asked in."""
SHORT = ("model.max_passage_tokens=64", "model.max_prompt_tokens=2048", "data.train_queries=10")
TEACHERS = ("labels", "vllm constrained", "server constrained", "server free")


def settings(recipe: str, teacher: str, url: str) -> list[str]:
    """Of one run."""
    if teacher == "labels":
        return ["data.train_queries=200"]
    found = [*SHORT, *RECIPES[recipe], "stages.synth.teacher=model"]
    engine, form = teacher.split()
    for paradigm in ASKED[recipe]:
        params = f"paradigms.{paradigm}.params"
        found += [f"++{params}.reasoning=false", f"++{params}.constrained={str(form == 'constrained').lower()}"]
    if engine == "vllm":
        return [*found, "engine=vllm"]
    model = base_model_dir(ModelConfig())
    args = {"model": "smollm2", "base_url": url, "tokenizer": str(model)}
    return [*found, "engine=openai", *(f"engine.args.{name}={value}" for name, value in args.items())]


def synth(folder: Path, recipe: str, data: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    """The summary of one run."""
    command = [sys.executable, "-m", "rl_rerank", "synth", f"recipe={recipe}", f"run_dir={folder}", *data, *given]
    print(" ".join(command[2:]), flush=True)
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"    {time.monotonic() - begin:.0f} s, exit status {done.returncode}", flush=True)
    found = folder / "synth/summary.json"
    if done.returncode and not found.exists():  # a run that is left without a record fails, and says why
        sys.exit(done.stderr[-3000:])
    return json.loads(found.read_text())


def row(recipe: str, data: str, teacher: str, summary: Mapping[str, Any]) -> str:
    """A line of the table."""
    asking = [step for step in summary["steps"].values() if "prompts" in step]
    prompts, malformed = (sum(step[name] for step in asking) for name in ("prompts", "malformed"))
    parsed = f"{prompts - malformed} ({1 - malformed / prompts:.0%})" if prompts else "none asked"
    entered = next(iter(summary["steps"].values()))["in"]
    cells = [recipe, data, teacher, entered, summary["examples"], prompts or "", parsed]
    return f"| {' | '.join(map(str, cells))} |"


@contextmanager
def server() -> Iterator[str]:
    """vLLM's server on this machine, for as long as the block lasts; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(base_model_dir(ModelConfig())),
    ]
    command += ["--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += [
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        "--max-model-len",
        "4096",
        "--logits-processors",
        "rl_rerank.engines.local.vllm_mask:ConstrainedDecoding",
    ]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, env={**os.environ, **quiet}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                sys.exit(f"the server ended with exit status {process.returncode}: {' '.join(command)}")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("folders", type=Path, nargs="*", help="of collections")
    given = parser.parse_args()
    collections = {folder.name: ["data=collection", f"data.path={folder.resolve()}"] for folder in given.folders}
    lines = ["| recipe | data | teacher | queries | records | prompts | well-formed answers |"]
    lines += ["| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    with server() as url:
        for data, chosen in {"embedded": [], **collections}.items():
            for recipe in RECIPES:
                for teacher in TEACHERS if ASKED[recipe] else TEACHERS[:1]:
                    folder = given.runs / data / recipe / teacher.replace(" ", "_")
                    found = folder / "synth/summary.json"
                    if found.exists():
                        summary = json.loads(found.read_text())
                    else:
                        summary = synth(folder, recipe, chosen, settings(recipe, teacher, url))
                    lines.append(row(recipe, data, teacher, summary))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
