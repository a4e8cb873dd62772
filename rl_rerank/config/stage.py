"""The base class of stages: common settings, and methods called before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rl_rerank import registry

if TYPE_CHECKING:
    from rl_rerank.config.engine import EngineConfig
    from rl_rerank.config.experiment import Config
    from rl_rerank.stages.plugins import Plugins
    from rl_rerank.stages.preview import Preview


@dataclass(frozen=True, slots=True)
class Reference:
    """A setting of a stage that names another stage.

    Example: `Reference("model", "sft", "a model", also=("model",))` for `stages.grpo.model=sft`.
    """

    setting: str
    stage: str
    """Name of the referenced stage."""
    needs: str
    """Required output of that stage: one of the values of `StageConfig.leaves`."""
    also: tuple[str, ...] = ()
    """Allowed values besides a stage's name, for the error."""
    step: int | None = None
    """The step of the checkpoint that is read; None: what the stage leaves at its end."""

    @classmethod
    def to_model(cls, setting: str, ref: str, needs: str = "a model", also: tuple[str, ...] = ()) -> Reference:
        """Refer to a model by NAME or NAME@STEP."""
        name, step = trained(ref)
        return cls(setting, name, needs, also, step)


@dataclass(kw_only=True)
class StageConfig:
    """A stage's settings.

    A kind of stage is a package with two modules: `spec.py` has a subclass of this class, free of torch, under the
    entry point `rl_rerank.stage`; `run.py` beside it has `run(config, name, stage)`, which does the work.
    """

    kind: str

    leaves: ClassVar[str] = ""
    """Output that later stages can use: `examples`, `a model`, `a run` or `measures`; empty: nothing."""
    is_launched: ClassVar[bool] = False
    """Whether it trains, so that the launcher starts it on all processes."""
    loads_model: ClassVar[bool] = False
    """Whether its output depends on the settings of the configured model though it neither trains nor asks it."""
    reads_data: ClassVar[bool] = True
    """Whether its output depends on the data and on the run's seed."""
    reads_rewards: ClassVar[bool] = False
    """Whether its output depends on the rewards."""
    uploads: ClassVar[str] = ""
    """Kind of hub repository for its output with `push=`: `model` or `dataset`; empty: none. If set, its `run.py` has
    `hub_folder(config, name, stage)`."""

    @staticmethod
    def chosen(value: Any, place: str) -> type[StageConfig]:
        """Find the stage class that a mapping with `kind` describes.

        Raises:
            ValueError: for an unknown kind.
        """
        kind, known = value.get("kind") if isinstance(value, Mapping) else None, registry.names("stage")
        if kind not in known:
            raise ValueError(f"{place}.kind must be one of {', '.join(known)}; got {kind!r}")
        return registry.find("stage", str(kind))

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        """Yield references to the stages that its settings name.

        Args:
            before: the earlier stages, by name.
        """
        yield from ()

    def reads(self, before: Mapping[str, StageConfig]) -> set[str]:
        """Collect the earlier stages whose output it reads."""
        return {reference.stage for reference in self.references(before)}

    def rows(self) -> Mapping[str, int]:
        """Count the SFT rows that it makes, by paradigm."""
        return {}

    def paradigms(self, plugins: Plugins) -> Sequence[str]:
        """List the paradigms of its prompts."""
        return ()

    def prompting(self, plugins: Plugins) -> Sequence[str]:
        """List its paradigms with prompts outside ranking, for training or for measuring answers."""
        return self.paradigms(plugins)

    @property
    def uses_default_paradigm(self) -> bool:
        """Whether its output depends on the experiment's paradigm."""
        return True

    @property
    def start(self) -> str:
        """Its starting model: `model`, or a reference to an earlier training stage."""
        return "model"

    @property
    def logs_rewards(self) -> bool:
        """Whether it trains on rewards and logs them."""
        return self.is_launched and self.reads_rewards

    @property
    def is_baseline(self) -> bool:
        """Whether its run is reported beside every result, even if not named."""
        return False

    def asks(self, plugins: Plugins) -> EngineConfig | None:
        """Find the engine that answers its prompts; None if it has none."""
        return None

    def requires(self, plugins: Plugins) -> Sequence[str]:
        """List the packages that it needs besides those of its engine, paradigms and rewards."""
        return ()

    def check(self, name: str, plugins: Plugins) -> None:
        """Refuse settings that conflict with each other or with the things they name. References are already valid.

        Raises:
            ValueError, LookupError: with the place, the value and the reason.
        """

    def renders(self, plugins: Plugins) -> bool:
        """Whether the tokenizer of the experiment's model renders its prompts, so that `preview` is called."""
        return False

    def preview(self, name: str, plugins: Plugins, preview: Preview) -> Iterator[str]:
        """Check its prompts before the first stage starts, and yield lines about them for the plan.

        Raises:
            ValueError: with the place, the value and the reason.
        """
        yield from ()

    def arguments(self, config: Config, output: Path) -> Any:
        """Build the transformers.TrainingArguments of its trainer; None if it has none.

        Args:
            output: the stage's folder.

        Raises:
            ValueError, TypeError: for an argument that trl or transformers refuses.
        """
        return None

    def refuse_checkpoint(self, step: int) -> str | None:
        """Say why it keeps no checkpoint of this step; None if it does."""
        return f"a stage of kind {self.kind} has no checkpoints"

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        """Describe its work for the plan: one line, and further lines indented below it."""
        before = plugins.config.before(self)
        read = [n for n in before if n in self.reads(before)]
        return [f"{self.kind}: reads {', '.join(read) or 'nothing'}"]

    def recorded(self, values: dict[str, Any]) -> dict[str, Any]:
        """Select the settings that its output depends on from all its settings as plain values."""
        return values

    def results(self, folder: Path) -> list[str]:
        """Format its results for display at the end of the run.

        Args:
            folder: the stage's folder.
        """
        return []


def trained(ref: str) -> tuple[str, int | None]:
    """Parse a reference to a training stage: `grpo@40`, a checkpoint, is ("grpo", 40); `grpo`, the final model, is
    ("grpo", None).

    Raises:
        ValueError: if no number follows the @.
    """
    name, at, step = ref.partition("@")
    if at and not step.isdecimal():
        raise ValueError(f"model={ref!r}: what follows the @ is the step of a checkpoint, such as {name}@40")
    return name, int(step) if at else None
