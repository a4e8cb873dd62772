# ruff: noqa: T201 (a script whose output is its result)
"""Lists of a query's documents as one packed row against a padded row for each document: training and scoring.

    python benchmarks/packed_lists.py [--data pydocs] [--size 8] [--lists 4] [--batches 4] [--rounds 3]
    python benchmarks/packed_lists.py --data FOLDER

Training is forward and backward of a softmax loss over lists of SmolLM2-135M in float32; scoring is an engine's, of 20
candidates a query. Both sides receive the same lists and run in turn; documents a second are medians. `tokens` is the
ratio of those that both compute, padding included. FOLDER is a collection as `data=collection` reads it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rl_rerank import data
from rl_rerank.config import ModelConfig
from rl_rerank.engines.local import checkpoint
from rl_rerank.engines.local.hf import HFEngine
from rl_rerank.experiment.compose import compose
from rl_rerank.packed.forward import install, plainly_scored, scored
from rl_rerank.paradigms.pointwise import Pointwise
from rl_rerank.training.exact.lists import ListCollator, lists, reading
from rl_rerank.training.losses.build import build_loss


def timed(ways: dict[str, Callable[[int], Any]], batches: int, rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Run the ways in turn on each batch; return median seconds of a batch, summed over batches, and last results."""
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in range(batches)] for name in ways}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for batch in range(batches):
            for name, way in ways.items():
                start = time.perf_counter()
                results[name] = way(batch)
                seconds[name][batch].append(time.perf_counter() - start)
    return {name: sum(map(statistics.median, values)) for name, values in seconds.items()}, results


def padded_tokens(batch: dict[str, Any]) -> int:
    """Count the tokens of a row for each prompt, padded to the longest."""
    rows = {tuple(ids[:-1]) for ids, _ in batch["packed"].sequences}
    return len(rows) * max(map(len, rows))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pydocs")
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--lists", type=int, default=4, help="lists of a micro-batch")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=8, help="queries that are scored at 20 candidates")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = ["data=pydocs"] if given.data == "pydocs" else ["data=collection", f"data.path={given.data}"]
        config: Any = compose("run", ["experiment=quickstart_tokens", *source, "data.depth=20", f"run_dir={folder}"])
        store = data.prepare(config.data, Path(folder) / "data")
        start = checkpoint.locate(config, "model")
        renderer = checkpoint.renderer(ModelConfig(max_passage_tokens=config.model.max_passage_tokens), start)
        paradigm, read = Pointwise(), reading(Pointwise(), renderer)
        model: Any = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        install(model)
        count = given.lists * given.batches
        asked = lists(store.examples("train"), paradigm, renderer, count=count, size=given.size, seed=1)
        collate, loss = ListCollator(asked, read, with_answers=False), build_loss("benchmark", "softmax", {})
        batches = [
            collate([{"index": i} for i in range(start, start + given.lists)]) for start in range(0, count, given.lists)
        ]
        pad = renderer.tokenizer.pad_token_id

        def learn(forward: Callable[[Any], Any]) -> Callable[[int], Any]:
            def way(number: int) -> Any:
                batch = batches[number]
                model.zero_grad()
                found = loss(read.scores(forward(batch["packed"]), batch), batch["grades"], batch["mask"]).mean()
                found.backward()
                return torch.cat([p.grad.flatten() for p in model.parameters()])

            return way

        seconds, gradients = timed(
            {
                "padded": learn(lambda packed: plainly_scored(model, packed.sequences, pad_id=pad)),
                "packed": learn(lambda packed: scored(model, packed, with_logits=True)),
            },
            len(batches),
            given.rounds,
        )
        documents = sum(len(asked[i].docids) for i in range(count))
        apart = (gradients["padded"] - gradients["packed"]).norm() / gradients["padded"].norm()
        print("| work | padded, documents/s | packed | times as fast | tokens | apart |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        tokens = sum(map(padded_tokens, batches)) / sum(batch["packed"].layout.length for batch in batches)
        speed = {name: documents / value for name, value in seconds.items()}
        print(
            f"| softmax over lists of {given.size} | {speed['padded']:.2f} | {speed['packed']:.2f} "
            f"| {speed['packed'] / speed['padded']:.2f} | {tokens:.2f} | gradients {apart:.1e} |",
            flush=True,
        )
        engine, padded = (HFEngine(model, renderer, batch_tokens=4096) for _ in range(2))
        padded.scorer.refusal = "measured"
        examples = store.examples("train")[: given.queries]
        prompts = [[paradigm.prompt(example, [docid]) for docid in example.docids] for example in examples]

        def score(by: HFEngine) -> Callable[[int], Any]:
            return lambda number: by.score(prompts[number], paradigm.continuations)

        seconds, found = timed({"padded": score(padded), "packed": score(engine)}, len(prompts), given.rounds)
        documents = sum(map(len, prompts))
        speed = {name: documents / value for name, value in seconds.items()}
        gap = max(
            abs(a - b)
            for one, other in zip(found["padded"], found["packed"], strict=True)
            for a, b in zip(one.continuations.values(), other.continuations.values(), strict=True)
        )
        print(
            f"| scores of {documents / len(prompts):.0f} candidates | {speed['padded']:.2f} | {speed['packed']:.2f} "
            f"| {speed['packed'] / speed['padded']:.2f} | | {gap:.1e} nats |"
        )


if __name__ == "__main__":
    main()
