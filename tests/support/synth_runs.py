"""A run of the synthesis stage over a few made-up queries, and steps without a stage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rl_rerank import registry
from rl_rerank.config import Config, DataConfig, PluginConfig
from rl_rerank.data.examples import ExampleFile
from rl_rerank.engines.base import Engine
from rl_rerank.stages.synth import run as synth_stage
from rl_rerank.stages.synth.spec import SynthBudget, SynthStage
from rl_rerank.synthesis.metered import Meter
from rl_rerank.synthesis.resources import Resources
from rl_rerank.synthesis.step import StepContext
from rl_rerank.types import Candidate, RankingExample


def config(folder: Path, num_queries: int = 12, **settings: Any) -> Config:
    """A run over ranking examples of three candidates and two grades each."""
    rows = [
        {
            "qid": f"q{n}",
            "query": f"query {n}",
            "split": "train" if n else "dev",
            "candidates": [{"docid": f"q{n}-{d}", "text": f"text {d}"} for d in range(3)],
            "qrels": {f"q{n}-{n % 3}": 1},
        }
        for n in range(num_queries + 1)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(source="jsonl", path=str(folder / "examples.jsonl"))
    paradigms = {"listwise": PluginConfig(params={"window": 3})}
    return Config(run_dir=str(folder / "run"), data=data, paradigms=paradigms, **settings)


def stage(steps: dict[str, Any] | None = None, **settings: Any) -> SynthStage:
    """A stage; `steps` maps names to parameters, of which `name` is the step's own."""
    plugins = {}
    for name, params in (steps or {}).items():
        values = dict(params)
        own = {key: values.pop(key) for key in ("name", "target") if key in values}
        plugins[name] = PluginConfig(params=values, **own)
    return SynthStage(kind="synth", steps=plugins, **settings)


def run(settings: Config, steps: dict[str, Any] | None = None, **more: Any) -> ExampleFile:
    """The examples that a stage leaves; its settings stand in the configuration, for processes of its own."""
    settings.stages["synth"] = stage(steps, **more)
    synth_stage.run(settings, "synth", settings.stages["synth"])
    return ExampleFile(Path(settings.run_dir) / "synth/examples.jsonl")


def summary(settings: Config) -> dict[str, Any]:
    return json.loads((Path(settings.run_dir) / "synth/summary.json").read_text())


class Given(Resources):
    """Gives one engine under every name."""

    def __init__(self, settings: Config, synth_stage: SynthStage, engine: Engine | None) -> None:
        super().__init__(settings, synth_stage, Meter(SynthBudget(), {}))
        self.given = engine

    def engine(self, name: str) -> Engine:
        return self.given if self.given is not None else super().engine(name)


def apply(
    examples: Iterable[RankingExample],
    name: str,
    *,
    called: str = "",
    settings: Config | None = None,
    engine: Engine | None = None,
    synth_stage: SynthStage | None = None,
    **params: Any,
) -> tuple[list[RankingExample], Counter[str]]:
    """What a step makes of examples, and its counts."""
    settings = settings or Config()
    synth_stage = synth_stage or stage()
    context = StepContext(called or name, settings, synth_stage, Given(settings, synth_stage, engine))
    return list(registry.build("step", name, params)(examples, context)), context.counts


def example(qid: str, grades: dict[str, int], **more: Any) -> RankingExample:
    candidates = tuple(Candidate(d, f"text of {d}", rank=rank) for rank, d in enumerate(grades, start=1))
    return RankingExample(qid, more.pop("query", f"query {qid}"), candidates, grades, split="train", **more)
