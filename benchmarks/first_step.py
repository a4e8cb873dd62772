# ruff: noqa: T201 (a script whose output is its table)
"""Time and memory until the first optimizer step as the training data grow.

    python benchmarks/first_step.py [--queries 100 10000 100000] [--stages scores lists tokens ...]

Every size is a generated store of queries with 100 candidates of 56 words, drawn from 100,003 documents; a tiny random
Llama with SmolLM2's tokenizer trains on it. Each stage runs in a process of its own, which ends behind its first step,
and its `max_steps` are a pass over all queries:

    scores      grpo on scores over lists of 100 documents
    lists       sft by a ranking loss over lists of 8
    tokens      grpo on sampled answers to windows of 20 passages
    curriculum  the same by the first stage's ranks, which have to be read first
    pass_rate   the same by pass rates
    rows        sft on a synthesised row about each query; the examples have 20 candidates, with their texts

`begins` is the time from the start of the process to the beginning of its first step, imports and the model included;
what it takes with 100 queries does not depend on the data. `step` is the step, and the peak is up to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl_rerank.config import Config, CurriculumConfig, DataConfig, ModelConfig, PluginConfig, RewardConfig, StageConfig
from rl_rerank.data import examples, prepare
from rl_rerank.data.examples import ExampleFile
from rl_rerank.data.prepare import build_source, fingerprint
from rl_rerank.data.records import Collection, Document
from rl_rerank.data.store import Row, Writer
from rl_rerank.stages.grpo.policies import ScoresPolicy
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank.stages.sft.spec import SFTStage

DOCUMENTS = 100_003
"""A prime number, so that steps of any size come to all of them."""
CANDIDATES, WORDS = 100, 56
STAGES = ("scores", "lists", "tokens", "curriculum", "pass_rate", "rows")
BATCH = 4
VOCABULARY = [f"{a}{b}{c}" for a in ("ice", "cave", "rock", "wall", "lamp") for b in "aeiou" for c in "bdfgklmnprst"]


@dataclass(frozen=True)
class Generated:
    """The source of the store; it is written without it."""

    queries: int

    def read(self) -> Collection:
        raise NotImplementedError("the store is written directly")

    def state(self) -> str:
        return str(self.queries)


class Documents(Mapping[str, Document]):
    """Random texts, each the same whenever it is read."""

    def __len__(self) -> int:
        return DOCUMENTS

    def __iter__(self) -> Iterator[str]:
        return map(str, range(DOCUMENTS))

    def __getitem__(self, docid: str) -> Document:
        return Document("", " ".join(random.Random(docid).choices(VOCABULARY, k=WORDS)))


class Rows(Sequence[Row]):
    """Queries with two relevant candidates."""

    def __init__(self, queries: int) -> None:
        self._queries = queries

    def __len__(self) -> int:
        return self._queries

    def __getitem__(self, index: Any) -> Any:
        if index >= self._queries:
            raise IndexError(index)
        rng = random.Random(index)
        first, step = rng.randrange(DOCUMENTS), rng.randrange(1, DOCUMENTS)
        docids = [str((first + i * step) % DOCUMENTS) for i in range(CANDIDATES)]
        qrels = {docids[rng.randrange(CANDIDATES)]: 2, docids[rng.randrange(CANDIDATES)]: 1}
        found = tuple((docid, 20 - place / 10) for place, docid in enumerate(docids))
        return Row(f"q{index}", " ".join(rng.choices(VOCABULARY, k=8)), found, qrels)


def model(folder: Path) -> None:
    """Save a random model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rl_rerank.engines.local.checkpoint import base_model_dir, load_tokenizer

    tokenizer = load_tokenizer(base_model_dir(ModelConfig()), False)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8192}
    ends: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def stage(name: str, queries: int) -> StageConfig:
    """A stage that takes each query about once."""
    common: dict[str, Any] = {"max_steps": queries // BATCH, "micro_batch": 1, "save_steps": 10**9, "seed": 1}
    if name in ("lists", "rows"):
        loss = {"loss": "softmax", "list_size": 8} if name == "lists" else {"loss": "completion"}
        return SFTStage(kind="sft", batch_size=BATCH, **loss, **common)
    common |= {"kind": "grpo", "prompts_per_step": BATCH, "num_generations": 4}
    if name == "scores":
        return GRPOStage(policy=ScoresPolicy(), **common)
    kinds: dict[str, CurriculumConfig | None] = {
        "tokens": None,
        "curriculum": CurriculumConfig(kind="reciprank"),
        "pass_rate": CurriculumConfig(kind="pass_rate"),
    }
    return GRPOStage(curriculum=kinds[name], **{**common, "micro_batch": 4})


def config(folder: Path, queries: int, name: str) -> Config:
    made = stage(name, queries)
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(source=f"{__file__}:Generated", params={"queries": queries}, depth=CANDIDATES),
        model=ModelConfig(path=str(folder / "model"), max_prompt_tokens=4096),
        paradigm="listwise" if name in ("tokens", "curriculum", "pass_rate") else "pointwise",
        paradigms={"pointwise": PluginConfig(), "listwise": PluginConfig(params={"window": 20})},
        rewards={"ndcg": RewardConfig()},
        stages={name: made},
        report_to=[],
    )


def write(folder: Path, queries: int, *, with_rows: bool) -> None:
    """Write the store of a run, and what a synth stage would leave."""
    settings, data = config(folder, queries, "lists").data, folder / "run/data"
    data.mkdir(parents=True)
    writer = Writer(data, Documents())
    writer.split("train", Rows(queries))
    wanted = fingerprint(settings, build_source(settings))
    writer.finish(
        fingerprint=wanted, source=settings.source, asked={"train": queries}, unanswered={}, groups={}, warnings=()
    )
    if not with_rows:
        return
    synth = folder / "run/synth"
    synth.mkdir()
    with (synth / "examples.jsonl").open("w") as made, (synth / "rows.jsonl").open("w") as answers:
        for example in prepare(settings, data).examples("train"):
            shown = example.candidates[:20]
            made.write(examples.line(replace(example, candidates=shown)))
            docids = [candidate.docid for candidate in shown]
            target = " > ".join(f"[{n}]" for n in range(1, 21))
            row = {"qid": example.qid, "paradigm": "listwise", "docids": docids, "target": target, "teacher": "labels"}
            answers.write(json.dumps(row) + "\n")
    ExampleFile(synth / "examples.jsonl").lines.write(synth / "examples.jsonl")


def child(folder: Path, queries: int, name: str, started: float) -> None:
    """Train one step."""
    from transformers import TrainerCallback, trainer

    begun = [0.0]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begun[0] = time.time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps([begun[0] - started, time.time() - begun[0], peak]), flush=True)
            os._exit(0)

    callbacks: Any = trainer.DEFAULT_CALLBACKS
    callbacks.append(Clock)
    settings = config(folder, queries, name)
    if name in ("lists", "rows"):
        from rl_rerank.stages.sft import run
    else:
        from rl_rerank.stages.grpo import run
    run.run(settings, name, settings.stages[name])  # pyright: ignore[reportArgumentType]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--child", nargs=4)
    given = parser.parse_args()
    if given.child:
        folder, queries, name, started = given.child
        child(Path(folder), int(queries), name, float(started))
        return
    print("| queries | stage | begins (s) | step (s) | peak MiB |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for queries in given.queries:
        with tempfile.TemporaryDirectory() as place:
            model(Path(place) / "model")
            write(Path(place), queries, with_rows="rows" in given.stages)
            for name in given.stages:
                command = [sys.executable, __file__, "--child", place, str(queries), name, str(time.time())]
                ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                begins, step, peak = json.loads(ended.stdout.splitlines()[-1])
                print(f"| {queries:,} | {name} | {begins:.1f} | {step:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
