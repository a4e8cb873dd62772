"""`Experiment`: a configuration with all its names resolved, once. To construct one is to validate it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rl_rerank import requirements
from rl_rerank.config import STRATEGIES, Config, EngineConfig, LauncherConfig, StageConfig
from rl_rerank.data import terms
from rl_rerank.data.prepare import has_store
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.paradigms.pipeline import Pipeline
from rl_rerank.reward.base import Term
from rl_rerank.stages.plugins import Plugins

# `data`, `embeddings` and `superseded` are folders of the run beside those of its stages, and `model` names the
# configured model wherever a setting names a stage to start from.
RESERVED = ("data", "embeddings", "model", "superseded")
LAUNCHED = {
    "config_file": "strategy",
    **{n: n for n in ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")},
}
"""Argument of `accelerate launch` -> the launcher's setting for it."""


@dataclass(frozen=True, slots=True)
class ResolvedStage:
    """A stage together with everything that its settings name.

    Example: `rl` of quickstart has `inputs=("sft",)`, `paradigms={"pointwise": Pointwise()}`, `engine=None` and
    `requires=("torch", "transformers", "trl")`.
    """

    name: str
    settings: StageConfig
    inputs: tuple[str, ...]
    """The stages whose output the stage reads, in the experiment's order."""
    paradigms: Mapping[str, Paradigm]
    """The paradigms of its prompts, by name."""
    engine: EngineConfig | None
    """The engine that answers its prompts; None for a stage without prompts."""
    requires: tuple[str, ...]
    """Packages that must be installed."""


@dataclass(frozen=True)
class Experiment:
    """A valid experiment: every name in it exists, and its stages, plugins and arithmetic are consistent."""

    config: Config
    plugins: Plugins
    stages: Mapping[str, ResolvedStage]
    """The stages by name, in order."""
    terms: tuple[Term, ...]
    """The rewards; empty if none is configured."""

    @staticmethod
    def of(config: Config) -> Experiment:
        """Resolve a configuration, without downloading, computing or writing anything.

        Raises:
            ValueError, LookupError, FileNotFoundError, ImportError: naming the place, the value and the reason.
        """
        plugins = Plugins(config)
        # References come first: everything below follows them, and would report a misspelled stage as a KeyError of its
        # own code instead of naming the setting.
        for name, settings in config.stages.items():
            _check_name(name)
            _check_references(config, name, settings)
        _check_launcher(config.launcher)
        _check_data(config, plugins)
        # Paradigms that no stage uses are built too, as a misspelled parameter there is a mistake all the same. A set
        # of names has another order in every process; sorting makes the first error the same each time.
        for name in sorted({config.paradigm, *config.paradigms}):
            plugins.paradigm(name)
        stages = {}
        for name, settings in config.stages.items():
            stages[name] = _resolved(name, settings, plugins)
            # A stage's own check asks its paradigms about their prompts. A pipeline has none, and is refused here in
            # words that say what to do instead.
            _check_prompting(name, settings, plugins)
            settings.check(name, plugins)
        return Experiment(config, plugins, stages, tuple(plugins.terms))

    def check_installed(self, names: Iterable[str]) -> None:
        """Refuse stages whose packages are not installed.

        Raises:
            ImportError: naming the stage, the package and what installs it.
        """
        # Separate from `of`, so that a plan can be shown without the packages, and so that stages which are already
        # done, or which another machine runs, need none here.
        for name in names:
            requirements.check(self.stages[name].requires, f"stage {name!r}")

    def describe(self, names: list[str]) -> list[str]:
        """Return the plan: a line for each stage, and the arithmetic of a training stage in further, indented lines."""
        width = max(map(len, names), default=0)
        lines: list[str] = []
        for name in names:
            line, *further = self.stages[name].settings.describe(name, self.plugins)
            lines += [f"{name:<{width}}  {line}", *(f"  {more}" for more in further)]
        return lines


def _resolved(name: str, settings: StageConfig, plugins: Plugins) -> ResolvedStage:
    before = plugins.config.before(settings)
    read = settings.reads(before)
    paradigms = {p: plugins.paradigm(p) for p in sorted(set(settings.paradigms(plugins)))}
    engine = settings.asks(plugins)
    return ResolvedStage(
        name,
        settings,
        tuple(n for n in before if n in read),
        paradigms,
        engine,
        tuple(dict.fromkeys(_requires(settings, plugins, paradigms, engine))),
    )


def _requires(
    settings: StageConfig, plugins: Plugins, paradigms: Mapping[str, Paradigm], engine: EngineConfig | None
) -> Iterator[str]:
    yield from settings.requires(plugins)
    if engine is not None:
        yield from plugins.engine(engine).requires
    for plugin in (*paradigms.values(), *((plugins.source,) if settings.reads_data else ())):
        yield from requirements.of(plugin)
    for term in plugins.terms if settings.logs_rewards else ():
        yield from term.traits.requires


def _check_name(name: str) -> None:
    # A first dot would hide the folder among the temporary ones of the run, a first dash would look like an option, and
    # `@` separates a stage from a checkpoint's step in references such as grpo@40.
    if name in RESERVED or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"stages.{name}: a stage's name is its folder's in the run, so it is made of letters, digits, '_', '-' and "
            f"'.', and is none of {', '.join(RESERVED)}"
        )


def _check_references(config: Config, name: str, settings: StageConfig) -> None:
    before = config.before(settings)
    for reference in settings.references(before):
        place = f"stages.{name}.{reference.setting} names {reference.stage!r}"
        target = config.stages.get(reference.stage)
        # From the mistake that says most to the one that says least: a stage of the wrong kind may also come too late,
        # but to move it would not help.
        if target is None:
            fitting = [n for n, other in before.items() if other.leaves == reference.needs]
            known = ", ".join([*reference.also, *fitting]) or "nothing yet"
            raise LookupError(f"{place}, which is no stage; it can be: {known}")
        if target.leaves != reference.needs:
            raise ValueError(f"{place}, of kind {target.kind}; it must be a stage that leaves {reference.needs}")
        if reference.stage not in before:
            raise ValueError(f"{place}, which does not come before it; the order is: {', '.join(config.stages)}")
        if reference.step is not None and (reason := target.refuse_checkpoint(reference.step)):
            raise ValueError(f"{place} at step {reference.step}, and {reason}")


def _check_prompting(name: str, settings: StageConfig, plugins: Plugins) -> None:
    for paradigm in settings.prompting(plugins):
        if isinstance(built := plugins.paradigm(paradigm), Pipeline):
            raise ValueError(
                f"stages.{name} makes prompts of the paradigm {paradigm!r}, a pipeline of {', '.join(built.members)}, "
                "which has none of its own; name one of those, and set the pipeline as the paradigm of a rerank stage"
            )


def _check_launcher(launcher: LauncherConfig) -> None:
    for argument in launcher.args:
        # accelerate accepts both --num-processes and --num_processes. These arguments follow the launcher's own, and of
        # two values argparse keeps the last: one given here would override the setting without a word.
        name = argument.split("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and name in LAUNCHED:
            raise ValueError(
                f"launcher.args holds {argument}, which the launcher sets itself; give launcher.{LAUNCHED[name]}=VALUE"
            )
    if launcher.strategy not in STRATEGIES and not Path(launcher.strategy).is_file():
        raise FileNotFoundError(f"launcher.strategy={launcher.strategy!r}: there is no such accelerate configuration")


def _check_data(config: Config, plugins: Plugins) -> None:
    # To build the source is to check its name and parameters; it reads nothing until the data are prepared.
    _ = plugins.source
    # A finished run is evaluated, reported and exported from its own data, where it was brought without them.
    is_missing = config.data.path is not None and not Path(config.data.path).exists()
    if is_missing and not has_store(Path(config.run_dir) / "data"):
        looked = str(Path(str(config.data.path)).absolute())
        raise FileNotFoundError(f"data.path={config.data.path!r}: there is no such file or folder ({looked!r})")
    terms.check(config.data.language)
    if config.data.first_stage is not None:
        config.data.first_stage.check("data.first_stage")
