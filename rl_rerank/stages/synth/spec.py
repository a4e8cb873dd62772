"""Data synthesis: the stage's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rl_rerank.config import EngineConfig, PluginConfig, StageConfig, at_least
from rl_rerank.io.digest import of_file, of_target
from rl_rerank.paradigms.base import as_written, traits
from rl_rerank.synthesis.step import LABELS, MODEL, StepTraits, build_step
from rl_rerank.synthesis.step import traits as step_traits

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class SynthBudget:
    """Budget of a synthesis stage. Tokens and cost accumulate over restarts, seconds do not. Checked before each batch
    of prompts; raise it and rerun to continue."""

    max_tokens: int | None = None
    """Completion tokens, and prompt tokens where the engine counts them."""
    max_cost: float | None = None
    """Over all engines, at the prices of `engine.args`."""
    max_seconds: float | None = None
    """Of one start."""


@dataclass(kw_only=True)
class SynthStage(StageConfig):
    """Make training data: examples pass through `steps` in order, and the result is written."""

    leaves: ClassVar[str] = "examples"
    uploads: ClassVar[str] = "dataset"

    steps: dict[str, PluginConfig] = field(default_factory=dict)
    """A name of your choice -> a synthesis step and its parameters, in order; without `name`, the key names the step.
    conf/recipe has ready lists. Empty: the examples as they are."""
    teacher: Literal["labels", "model"] = "labels"
    """What answers in steps that name no engine: `labels`, an oracle over the collection's judgments; or `model`, the
    configured model through the engine."""
    noise: float = 0.0
    """teacher=labels: standard deviation of its errors, in grades, drawn anew for every prompt and sample."""
    mixture: dict[str, int] = field(default_factory=lambda: {"pointwise": 400})
    """paradigm -> number of SFT rows. Rows of a paradigm that a step answers hold these answers; rows of any other hold
    the answers that the labels call for. Parameters of a paradigm are set under `paradigms`."""
    engine: EngineConfig | None = None
    """teacher=model: the engine that the teacher answers through; null: the experiment's."""
    engines: dict[str, EngineConfig] = field(default_factory=dict)
    """Further engines, for steps that name them."""
    inputs: Literal["queries", "passages"] = "queries"
    """`queries`: the training queries with their candidates. `passages`: one example per corpus passage; the passage
    serves as the query until a step writes one."""
    outputs: list[Literal["parquet", "retriever"]] = field(default_factory=list)
    """Beside examples.jsonl, rows.jsonl and the card: parquet (examples.parquet), retriever (retriever.jsonl)."""
    licence: str = ""
    """Licence of the texts, for the card."""
    chunk: int = 64
    """Examples that are processed and written together."""
    shards: int = 1
    """Processes that share the work. The output does not depend on their number."""
    executor: Literal["processes", "ray"] = "processes"
    """`processes` of this machine; or `ray`: the cluster that the environment variable RAY_ADDRESS names (else one of
    this machine), whose machines see the run folder and the data under the same paths."""
    budget: SynthBudget = field(default_factory=SynthBudget)
    seed: int = 1

    def __post_init__(self) -> None:
        for name, count in self.mixture.items():
            if count < 0:
                raise ValueError(f"synth stage: mixture.{name} must be 0 or more; got {count}")
        at_least("synth stage", self, chunk=1, shards=1, noise=0)

    def rows(self) -> Mapping[str, int]:
        return self.mixture

    def paradigms(self, plugins: Plugins) -> Sequence[str]:
        return [*self.mixture, *(p for step in self._steps(plugins) if (p := step.paradigm))]

    @property
    def uses_default_paradigm(self) -> bool:
        return False

    def engine_names(self, plugins: Plugins) -> list[str]:
        """What the steps ask: labels, model, or a name among the stage's engines."""
        return [step.engine or self.teacher for step in self._steps(plugins) if step.engine is not None]

    def asks(self, plugins: Plugins) -> EngineConfig | None:
        return (self.engine or plugins.config.engine) if MODEL in self.engine_names(plugins) else None

    def requires(self, plugins: Plugins) -> Sequence[str]:
        return [
            *(["ray"] if self.executor == "ray" else []),
            *(["pyarrow"] if "parquet" in self.outputs else []),
            *(package for step in self._steps(plugins) for package in step.requires),
            *(package for engine in self.engines.values() for package in plugins.engine(engine).requires),
        ]

    def check(self, name: str, plugins: Plugins) -> None:
        asked = self.engine_names(plugins)
        for engine_name in asked:
            if engine_name not in (LABELS, MODEL, *self.engines):
                raise LookupError(
                    f"a step of stages.{name} asks the engine {engine_name!r}, which is none of {LABELS}, {MODEL} and "
                    f"the engines of the stage: {', '.join(self.engines) or 'none'}"
                )
        if self.teacher == MODEL and MODEL not in asked:
            raise ValueError(
                f"stages.{name}.teacher=model answers in the steps of a recipe, and none of them asks it; give one "
                "that does, such as recipe=answers"
            )
        for step, built in plugins.steps(self.steps).items():
            self._check_engine(f"stages.{name}.steps.{step}", step_traits(built), plugins)

    def _check_engine(self, place: str, step: StepTraits, plugins: Plugins) -> None:
        """Refuse a step's engine that cannot answer what the step asks of it."""
        asked = None if step.engine is None else step.engine or self.teacher
        if asked is None or asked == LABELS:
            return
        engine = (self.engine or plugins.config.engine) if asked == MODEL else self.engines[asked]
        advice = "; a stage can have an engine of its own, such as stages.NAME.engine.kind=hf"
        named = step.answers or step.paradigm
        # Other steps generate text, also where their paradigm scores at inference.
        if step.ranks and named:
            plugins.check_ranking(place, engine, as_written(plugins.paradigm(named)), advice)
        elif not plugins.engine(engine).generates:
            raise ValueError(f"{place} needs generated answers, which engine.kind={engine.kind} does not give{advice}")
        elif named and traits(plugins.paradigm(named)).constrained:
            plugins.check_ranking(place, engine, as_written(plugins.paradigm(named)), advice)

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        rows = ", ".join(f"{count} {paradigm}" for paradigm, count in self.mixture.items())
        steps = f" by {', '.join(self.steps)}" if self.steps else ""
        return [f"synth: {sum(self.mixture.values())} rows ({rows}) from teacher {self.teacher}{steps}"]

    def recorded(self, values: dict[str, Any]) -> dict[str, Any]:
        """Without what decides how fast the work is done and how much of it at a time."""
        kept = {key: value for key, value in values.items() if key not in ("shards", "executor", "budget")}
        steps = {name: {**step, **self._digests(name)} for name, step in values["steps"].items()}
        return {**kept, "steps": steps, "engines": {key: engine.answering() for key, engine in self.engines.items()}}

    def _digests(self, name: str) -> dict[str, Any]:
        """Digests of a step's own file, and of the files that it reads; None of one that is not there yet."""
        found: dict[str, Any] = dict(of_target(self.steps[name].target))
        paths = step_traits(build_step(name, self.steps[name])).reads_files
        if paths:
            found["files"] = {path: of_file(Path(path)) if Path(path).is_file() else None for path in paths}
        return found

    def _steps(self, plugins: Plugins) -> list[StepTraits]:
        return [step_traits(step) for step in plugins.steps(self.steps).values()]
