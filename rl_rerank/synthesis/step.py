"""What a synthesis step is, and what it may use."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from rl_rerank.config import Config, SynthStage
from rl_rerank.data.records import Collection
from rl_rerank.engines.base import Engine
from rl_rerank.paradigms.base import Paradigm, as_written
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.synthesis.resources import Resources
from rl_rerank.types import RankingExample

LABELS, MODEL = "labels", "model"
"""Who may be asked, beside the engines that the stage names."""


@dataclass
class StepContext:
    """What a step may use beside its examples, and where it leaves its counts."""

    name: str
    """What the recipe calls the step."""
    config: Config
    stage: SynthStage
    resources: Resources
    counts: Counter[str] = field(default_factory=Counter)
    """What became of what, by name, such as `malformed`. Examples that go in and come out are counted in any case."""

    @property
    def collection(self) -> Collection:
        """The collection that the data were made of: the whole corpus."""
        return self.resources.collection

    def engine(self, name: str) -> Engine:
        """`model`: the stage's engine, or else the experiment's; otherwise the one of `stages.NAME.engines`."""
        return self.resources.engine("" if name == MODEL else name)

    def paradigm(self, name: str) -> Paradigm:
        """The paradigm with the parameters that the configuration gives it; empty: the experiment's.

        It reads answers as they are written: what is kept of a teacher's is their text, without probabilities.
        """
        chosen = name or self.config.paradigm
        return self.resources.shared(("paradigm", chosen), lambda: as_written(build_paradigm(self.config, chosen)))

    def seed(self, *parts: object) -> str:
        """A seed of random.Random that depends on the stage's seed, the step and `parts`, and on nothing else."""
        return ":".join(map(str, (self.stage.seed, self.name, *parts)))

    @property
    def number(self) -> int:
        """The step's seed as a number, for what takes no other."""
        return zlib.crc32(self.seed().encode())


class Step(Protocol):
    """A synthesis step: a frozen dataclass, whose fields are its parameters, that makes a stream of another.

    It may change examples, drop them, or give several for one, with qids of their own. An example that comes out must
    depend on the example that went in, the seed and the parameters alone: which others are beside it depends on the
    number of processes and on kills. A step that looks at all examples has an attribute `whole = True`; it is given
    the stream in order and whole, in one process.

    Further attributes are optional: `answers`, the paradigm whose SFT rows are this step's answers, unless it also has
    `ranks = True` and the paradigm ranks without writing; `paradigm`, one that it needs; and `engine`, which it asks:
    empty for the stage's teacher, `labels` for an oracle, `model`, or a name.
    """

    def __call__(self, examples: Iterable[RankingExample], context: StepContext, /) -> Iterator[RankingExample]: ...
