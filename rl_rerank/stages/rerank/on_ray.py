"""Answering the prompts of a rerank stage on a Ray cluster with Ray Data: many engines, each on queries of its own.

Workers leave answers alone, each chunk of queries in a journal of its own. The stage then ranks as it does in one
process and finds every answer in the journal: what it writes follows from the answers and the queries' order, and not
from the workers. All machines must see the run folder, the data and the models under the same paths.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import ray
import ray.data

from rl_rerank.config import Config
from rl_rerank.data import Store
from rl_rerank.engines.build import JOURNAL, build_bare, identity
from rl_rerank.engines.journal import Journal
from rl_rerank.engines.journaled import Journaled
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.ranking.methods import rank
from rl_rerank.stages.rerank.cascade import earlier, shortened
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.synthesis.on_ray import connect

PARTS = "parts"
"""Folder of the chunks' journals in the stage's folder: FIRST-COUNT.sqlite, or .partial until it is complete."""


def answered(config: Config, name: str, stage: RerankStage, num_queries: int) -> Path:
    """Have the prompts of all queries answered; returns the journal that then has the answers.

    Chunks of an earlier start that are complete are not asked again, and those that are not go on where they were.
    Their journals stay until `clean` at the stage's end.

    Raises:
        ValueError: with the reason of the first worker that could not go on.
    """
    parts = Path(config.run_dir) / name / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    numbers = range(-(-num_queries // stage.chunk))
    if todo := [number for number in numbers if not _part(parts, stage, number).is_file()]:
        _spread(config, name, todo, min(stage.shards, len(todo)))
    whole = Path(config.journal or Path(config.run_dir) / JOURNAL)
    answers = Journal(whole)
    for path in sorted(parts.glob("*.sqlite")):
        answers.take(path)
    answers.close()
    return whole


def clean(config: Config, name: str) -> None:
    """Remove what only a stage that is not finished needs."""
    shutil.rmtree(Path(config.run_dir) / name / PARTS)


def _spread(config: Config, name: str, todo: list[int], workers: int) -> None:
    connect(workers)
    chunks = ray.data.from_items([{"number": number} for number in todo], override_num_blocks=len(todo))
    made = chunks.map(
        _Worker,  # pyright: ignore[reportArgumentType] (made once in a worker, which Ray's types do not say)
        fn_constructor_args=(str(Path.cwd()), config, name),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
    )
    for row in made.iter_rows():
        if row["refused"]:
            raise ValueError(row["refused"])


def _part(parts: Path, stage: RerankStage, number: int) -> Path:
    return parts / f"{number * stage.chunk:07d}-{stage.chunk}.sqlite"


class _Worker:
    """One engine, which answers chunk after chunk."""

    def __init__(self, folder: str, config: Config, name: str) -> None:
        os.chdir(folder)  # which paths of the configuration are relative to
        stage = config.stages[name]
        assert isinstance(stage, RerankStage)
        self.config, self.stage = config, stage
        store = Store(Path(config.run_dir) / "data")
        self.examples = shortened(store.examples(stage.split), earlier(config, name, stage), stage.depth)
        self.paradigm = build_paradigm(config, stage.paradigm or config.paradigm)
        self.engine = build_bare(config, stage.model, stage.engine)
        self.parts = Path(config.run_dir) / name / PARTS
        self.identity: dict[str, Any] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        number = int(row["number"])
        done = _part(self.parts, self.stage, number)
        partial = done.with_suffix(".partial")
        try:
            answers = Journal(partial)
            # Weights are hashed once, and not for every chunk.
            self.identity = self.identity or identity(self.config, self.stage.model, self.stage.engine, answers)
            first = number * self.stage.chunk
            asked = self.examples[first : first + self.stage.chunk]
            rank(asked, self.paradigm, Journaled(self.engine, answers, self.identity), self.stage)
            answers.close()
            partial.rename(done)
        except (ValueError, OSError) as e:
            return {"refused": f"a worker could not answer queries {number * self.stage.chunk + 1} on: {e}"}
        return {"refused": ""}
