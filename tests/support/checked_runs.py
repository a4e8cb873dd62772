"""Runs on disk for checks to look at, ranked by an oracle."""

from __future__ import annotations

import json
import random
from pathlib import Path

from rl_rerank.config import Config, DataConfig, PluginConfig
from rl_rerank.data import prepare
from rl_rerank.engines.base import Capability
from rl_rerank.engines.oracle import Oracle
from rl_rerank.io.files import read_jsonl, write_jsonl
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.stages.check import run as check_stage
from rl_rerank.stages.check.spec import CheckStage
from rl_rerank.stages.rerank import run as rerank_stage
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.types import Completion

N = 12


def made(tmp_path: Path, queries: int) -> Config:
    """Each query has N candidates, of which three are relevant; every second query is in the test split."""
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(queries):
            rng = random.Random(i)
            grades = rng.sample(range(N), N)
            candidates = [{"docid": f"{i}-{c}", "text": f"text {c}", "score": float(N - c)} for c in range(N)]
            qrels = {f"{i}-{c}": max(grade - 8, 0) for c, grade in enumerate(grades)}
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": qrels}
            file.write(json.dumps({**row, "split": ("test", "train")[i % 2]}) + "\n")
    return Config(
        run_dir=str(tmp_path / "run"), data=DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl"), depth=N)
    )


class Unsure(Oracle):
    """An oracle that gives its answers a probability."""

    capabilities = frozenset({*Oracle.capabilities, Capability.logprobs})

    def generate(self, prompts, sampling, on_completion=None):
        found = super().generate(prompts, sampling, on_completion)
        return [
            [Completion(c.text, (1, 2), logprobs=(-0.25, 0.0), token_ends=(len(c.text), len(c.text))) for c in cs]
            for cs in found
        ]


def ranked(config, monkeypatch, name, stage, params, engine=Oracle, **settings) -> None:
    """Add a rerank stage with its paradigm and run it, an oracle answering."""
    config.paradigm = stage
    config.paradigms = {stage: PluginConfig(params=params)}
    config.stages[name] = RerankStage(kind="rerank", paradigm=stage, **{"shuffle": False, **settings})
    examples = prepare(config.data, Path(config.run_dir) / "data").examples("test")
    target = build_paradigm(config, stage).target
    monkeypatch.setattr(rerank_stage, "build_stage_engine", lambda *_: engine(examples, target, noise=1.0))
    rerank_stage.run(config, name, config.stages[name])


def findings(config, **checks) -> list[tuple[bool, str]]:
    stage = CheckStage(kind="check", checks={key.replace("__", "@"): params for key, params in checks.items()})
    check_stage.run(config, "mechanism", stage)
    found = json.loads(Path(config.run_dir, "mechanism/checks.json").read_text())
    table = Path(config.run_dir, "mechanism/checks.md").read_text()
    assert all(f"| {'pass' if f['passed'] else 'FAIL'} | {f['what']} | {f['found']} |" in table for f in found)
    return [(f["passed"], f["found"]) for f in found]


def spoil(config, stage, file, change) -> None:
    path = Path(config.run_dir) / stage / file
    rows = read_jsonl(path)
    change(rows)
    write_jsonl(path, rows)
