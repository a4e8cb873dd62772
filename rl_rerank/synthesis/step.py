"""The interface of synthesis steps, and the context that they use."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

from rl_rerank import registry
from rl_rerank.config import Config, PluginConfig
from rl_rerank.data.records import Collection
from rl_rerank.engines.base import Engine
from rl_rerank.paradigms.base import Paradigm, as_written
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.synthesis.resources import Resources
from rl_rerank.types import RankingExample

if TYPE_CHECKING:
    from rl_rerank.stages.synth.spec import SynthStage

LABELS, MODEL = "labels", "model"
"""Engine names that exist besides those of the stage."""


@dataclass
class StepContext:
    """Resources of a step besides its examples, and its counts."""

    name: str
    """The step's name in the recipe."""
    config: Config
    stage: SynthStage
    resources: Resources
    counts: Counter[str] = field(default_factory=Counter)
    """Counts by name, such as `malformed`. Input and output examples are always counted."""

    @property
    def collection(self) -> Collection:
        """The whole corpus that the data were made from."""
        return self.resources.collection

    def engine(self, name: str) -> Engine:
        """Find an engine. `model`: the stage's or else the experiment's; any other name: `stages.NAME.engines`."""
        return self.resources.engine("" if name == MODEL else name)

    def paradigm(self, name: str) -> Paradigm:
        """Build a paradigm with its configured parameters; an empty name gives the experiment's.

        It parses answers as text, because a teacher's answers are kept without probabilities.
        """
        chosen = name or self.config.paradigm
        return self.resources.shared(("paradigm", chosen), lambda: as_written(build_paradigm(self.config, chosen)))

    def seed(self, *parts: object) -> str:
        """Make a seed of random.Random that depends only on the stage's seed, the step and `parts`."""
        return ":".join(map(str, (self.stage.seed, self.name, *parts)))

    @property
    def number(self) -> int:
        """Convert the step's seed to a number, for libraries that require one."""
        return zlib.crc32(self.seed().encode())


class Step(Protocol):
    """A synthesis step: a frozen dataclass, with its parameters as fields, that maps a stream of examples to another.

    It may change examples, drop them, or yield several for one, each with its own qid. An output example must depend
    only on its input example, the seed and the parameters, because its neighbours depend on the number of processes
    and on kills. The fields of `StepTraits` are optional attributes.
    """

    def __call__(self, examples: Iterable[RankingExample], context: StepContext, /) -> Iterator[RankingExample]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTraits:
    """Optional attributes by which a step describes itself, read by `traits`."""

    whole: bool = False
    """Whether it needs all examples: it receives the whole stream, in order, in one process."""
    answers: str = ""
    """The paradigm whose SFT rows use this step's answers."""
    ranks: bool = False
    """Whether `answers` is void if the paradigm ranks without generating."""
    paradigm: str = ""
    """A paradigm that the step needs."""
    engine: str | None = None
    """The engine that it uses: empty for the stage's teacher, `labels` for an oracle, `model`, or one of the stage's
    engines. None: no engine."""
    reads_files: tuple[str, ...] = ()
    """Files whose content its output depends on: a stage with other content is another one."""
    requires: tuple[str, ...] = ()
    """Packages that it needs besides those of rl-rerank itself."""


KNOWN = frozenset(field.name for field in fields(StepTraits))


def traits(step: Step) -> StepTraits:
    """Read the step's traits."""
    return registry.traits(StepTraits, step)


def build_step(name: str, plugin: PluginConfig) -> Step:
    """Build a step by its name in a recipe.

    Raises:
        LookupError, ImportError, ValueError: for a step or a parameter that does not exist, or a misspelt optional
            attribute.
    """
    step = registry.build("step", plugin.name or name, plugin.params, target=plugin.target)
    registry.refuse_misspelt("step", plugin.name or name, step, KNOWN)
    return step
