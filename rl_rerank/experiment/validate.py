"""What an experiment will do: which stage reads which, whether everything it names exists, and its arithmetic."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from rl_rerank.config import (
    REFERENCE_ROLES,
    STRATEGIES,
    CheckStage,
    Config,
    EngineConfig,
    EvaluateStage,
    ExportStage,
    GRPOStage,
    LauncherConfig,
    ReportStage,
    RerankStage,
    SFTStage,
    StageConfig,
    SynthStage,
    TrainingStage,
    trained,
)
from rl_rerank.data.prepare import build_source
from rl_rerank.evaluation.measures import parse as parse_measure
from rl_rerank.paradigms.base import has_choices, list_scores
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.paradigms.pipeline import Pipeline
from rl_rerank.ranking.methods import check as check_ranking
from rl_rerank.requirements import EXTRAS
from rl_rerank.reward.build import reward_terms
from rl_rerank.reward.position_based import is_additive
from rl_rerank.stages.check.run import build as build_checks
from rl_rerank.synthesis.step import LABELS, MODEL
from rl_rerank.synthesis.worker import build_steps
from rl_rerank.training.loop import batches, lengths

TRAINING = ("sft", "grpo")
RESERVED = ("data", "model", "superseded")
SPLITS = ("train", "dev", "test")
LAUNCHED = {
    "config_file": "strategy",
    **{n: n for n in ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")},
}
"""Argument of `accelerate launch` -> the setting of the launcher that gives it."""


def upstream(config: Config, name: str) -> list[str]:
    """The stages whose output stage `name` reads, in order."""
    stage = config.stages[name]
    earlier = list(config.before(stage))
    if isinstance(stage, (ReportStage, CheckStage)):
        return earlier
    if isinstance(stage, EvaluateStage):
        # It tells from the training records whether the reward rose.
        read = {*_runs(config, stage), *(run for runs in stage.seeds.values() for run in runs)}
        return [n for n in earlier if n in read or _is_beside(config.stages[n])]
    read = {target for _, target, _ in _references(config, stage)}
    if isinstance(stage, ExportStage):
        read |= {n for n in earlier if isinstance(config.stages[n], EvaluateStage)}  # for the model card
    return [n for n in earlier if n in read]


def paradigms(config: Config, name: str) -> list[str]:
    """The paradigms that stage `name` asks with."""
    stage = config.stages[name]
    found: list[str] = []
    if isinstance(stage, SynthStage):
        steps = build_steps(stage).values()
        found = [*stage.mixture, *(p for step in steps if (p := getattr(step, "paradigm", "")))]
    elif isinstance(stage, SFTStage):
        teacher = config.stages.get(stage.data)
        found = [config.paradigm, *(teacher.mixture if isinstance(teacher, SynthStage) else ())]
    elif isinstance(stage, RerankStage):
        found = ([stage.paradigm or config.paradigm] if stage.asks else []) + list(stage.format_prompts)
    elif isinstance(stage, (GRPOStage, ExportStage)):
        found = [config.paradigm]
    return sorted(set(found))


def validate(config: Config) -> None:
    """Refuse, before any work, an experiment that names something that does not exist.

    Raises:
        ValueError, LookupError, FileNotFoundError, ImportError: with the place, the value and the reason.
    """
    for name, stage in config.stages.items():
        _check_name(name)
        _check_references(config, name, stage)
        _check_engine(config, name, stage)
        if isinstance(stage, SynthStage):
            _check_steps(name, stage)
        if isinstance(stage, RerankStage):
            _check_fused(config, name, stage)
        if isinstance(stage, RerankStage) and stage.split not in SPLITS:
            raise ValueError(f"stages.{name}.split must be one of {', '.join(SPLITS)}; got {stage.split!r}")
        if isinstance(stage, TrainingStage):
            batches.batches(config, name, stage)
        if isinstance(stage, CheckStage):
            build_checks(name, stage)
        for measure in stage.measures if isinstance(stage, EvaluateStage) else ():
            parse_measure(measure)
        if isinstance(stage, GRPOStage) and not config.rewards:
            raise ValueError(f"stages.{name} has no reward to train on; choose some with 'reward=[ndcg,format]'")
    _check_launcher(config.launcher)
    _check_data(config)
    for name in sorted({config.paradigm, *config.paradigms, *(p for n in config.stages for p in paradigms(config, n))}):
        build_paradigm(config, name)
    for name, stage in config.stages.items():
        _check_paradigms(config, name, stage)
        _check_policy(config, name, stage)
    terms = reward_terms(config) if config.rewards else []
    for name, stage in config.stages.items():
        if isinstance(stage, GRPOStage):
            batches.whole_queries(name, stage, terms, build_paradigm(config, config.paradigm))
        if isinstance(stage, TrainingStage):
            lengths.check_context(config, name, stage)


def check_installed(config: Config, names: list[str]) -> None:
    """Refuse stages whose extras are not installed.

    Raises:
        ImportError: naming the stage, the package and what to install.
    """
    for name in names:
        for package in _needs(config, config.stages[name]):
            if importlib.util.find_spec(package) is None:
                install = f"pip install 'rl-rerank[{EXTRAS[package]}]'"
                raise ImportError(f"stage {name!r} needs {package}, which is not installed: {install}")


def describe(config: Config, names: list[str]) -> list[str]:
    """What each stage reads, and for a training stage the arithmetic of its batches in further, indented lines."""
    width = max(map(len, names), default=0)
    lines: list[str] = []
    for name in names:
        stage = config.stages[name]
        lines.append(f"{name:<{width}}  {_line(config, name, stage)}")
        if isinstance(stage, TrainingStage):
            longest = lengths.completion_tokens(config, stage)
            lines += [f"  {line}" for line in batches.describe(config, name, stage, completion_tokens=longest)]
    return lines


def _line(config: Config, name: str, stage: StageConfig) -> str:
    if isinstance(stage, SynthStage):
        rows = ", ".join(f"{count} {paradigm}" for paradigm, count in stage.mixture.items())
        steps = f" by {', '.join(stage.steps)}" if stage.steps else ""
        return f"synth: {sum(stage.mixture.values())} rows ({rows}) from teacher {stage.teacher}{steps}"
    if isinstance(stage, SFTStage):
        what = "lists" if stage.is_ranking else "rows"
        rows = stage.batch_size * stage.max_steps
        return (
            f"sft from {stage.model}: {stage.max_steps} steps x {stage.batch_size} {what} = {rows} {what}"
            f"{_passes(config, stage)}"
        )
    if isinstance(stage, GRPOStage) and stage.policy != "tokens":
        what = "prompts" if stage.policy == "choice" else f"lists, {stage.num_generations} orders of each"
        asked = stage.max_steps * stage.prompts_per_step
        return (
            f"grpo on {stage.policy} from {stage.model}: {stage.max_steps} steps x {stage.prompts_per_step} = {asked} "
            f"{what}"
        )
    if isinstance(stage, GRPOStage):
        completions = stage.prompts_per_step * stage.num_generations
        in_all = -(-stage.max_steps // stage.num_iterations) * completions
        return (
            f"grpo from {stage.model}: {stage.max_steps} steps; {stage.prompts_per_step} prompts x "
            f"{stage.num_generations} generations = {completions} completions a step, {in_all} in all"
        )
    if isinstance(stage, RerankStage):
        if stage.fuse:
            return f"rerank: {stage.split} queries, {' and '.join(stage.fuse)} fused"
        times = f", {stage.shuffles} times" if stage.shuffles > 1 else ""
        return f"rerank: {stage.split} queries with {stage.model}, {config.data.depth} candidates each{times}"
    reads = ", ".join(upstream(config, name))
    return f"{stage.kind}: reads {reads or 'nothing'}"


def _passes(config: Config, stage: SFTStage) -> str:
    teacher = config.stages.get(stage.data)
    if stage.is_ranking or not isinstance(teacher, SynthStage) or not sum(teacher.mixture.values()):
        return ""
    rows = sum(teacher.mixture.values())
    return f" ({stage.batch_size * stage.max_steps / rows:.1f} passes over {rows})"


def _references(config: Config, stage: StageConfig) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(setting, the stage it names, the kinds that will do) for every stage that `stage` names."""
    if isinstance(stage, GRPOStage) and stage.data is not None:
        yield "data", stage.data, ("synth",)
    if isinstance(stage, SFTStage) and not stage.is_ranking:
        yield "data", stage.data, ("synth",)
    fused = stage.fuse if isinstance(stage, RerankStage) else []
    for run in fused:
        yield "fuse", run, ("rerank",)
    if isinstance(stage, (TrainingStage, RerankStage)) and not fused and stage.model not in _given(stage):
        yield "model", trained(stage.model)[0], TRAINING
    if isinstance(stage, ExportStage):
        yield "model", trained(stage.model)[0], TRAINING
    if isinstance(stage, EvaluateStage):
        for run in _runs(config, stage):
            yield "runs", run, ("rerank",)
        for system, runs in stage.seeds.items():
            for run in runs:
                yield f"seeds.{system}", run, ("rerank",)
        for run in (run for pair in stage.comparisons for run in pair if run not in stage.seeds):
            yield "comparisons", run, ("rerank",)


def _given(stage: StageConfig) -> tuple[str, ...]:
    return ("model", "first_stage") if isinstance(stage, RerankStage) else ("model",)


def _runs(config: Config, stage: EvaluateStage) -> list[str]:
    return stage.runs or [n for n, s in config.before(stage).items() if isinstance(s, RerankStage)]


def _is_beside(stage: StageConfig) -> bool:
    """Whether an evaluation reads an earlier stage that it does not name."""
    return isinstance(stage, GRPOStage) or (isinstance(stage, RerankStage) and stage.role in REFERENCE_ROLES)


def _check_name(name: str) -> None:
    if name in RESERVED or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"stages.{name}: a stage's name is its folder's in the run, so it is made of letters, digits, '_', '-' and "
            f"'.', and is none of {', '.join(RESERVED)}"
        )


def _check_references(config: Config, name: str, stage: StageConfig) -> None:
    order = list(config.stages)
    for setting, target, kinds in _references(config, stage):
        place = f"stages.{name}.{setting} names {target!r}"
        if target not in config.stages:
            fitting = [n for n in order[: order.index(name)] if config.stages[n].kind in kinds]
            given = _given(stage) if setting == "model" and not isinstance(stage, ExportStage) else ()
            known = ", ".join([*given, *fitting]) or "nothing yet"
            raise LookupError(f"{place}, which is no stage; it can be: {known}")
        if config.stages[target].kind not in kinds:
            raise ValueError(f"{place}, a {config.stages[target].kind} stage; it must be a {' or '.join(kinds)} stage")
        if order.index(target) >= order.index(name):
            raise ValueError(f"{place}, which does not come before it; the order is: {', '.join(order)}")
    for pair in stage.comparisons if isinstance(stage, EvaluateStage) else ():
        if len(pair) != 2:
            raise ValueError(f"stages.{name}.comparisons: a comparison is a pair [system, baseline]; got {pair}")


def _check_paradigms(config: Config, name: str, stage: StageConfig) -> None:
    """What a stage asks of its paradigms, beyond that they exist."""
    if isinstance(stage, RerankStage) and stage.asks:
        check_ranking(build_paradigm(config, stage.paradigm or config.paradigm), stage, f"stages.{name}.")
    asked = list(stage.format_prompts) if isinstance(stage, RerankStage) else paradigms(config, name)
    for paradigm in asked:
        if isinstance(built := build_paradigm(config, paradigm), Pipeline):
            steps = ", ".join(built.members)
            raise ValueError(
                f"stages.{name} makes prompts of the paradigm {paradigm!r}, a pipeline of {steps}, which has none of "
                "its own; name one of those, and set the pipeline as the paradigm of a rerank stage"
            )


def _check_steps(name: str, stage: SynthStage) -> None:
    """Refuse a recipe whose steps name an engine that is not there, or whose teacher nobody asks."""
    asked = _asked(stage)
    for engine_name in asked:
        if engine_name not in (LABELS, MODEL, *stage.engines):
            raise LookupError(
                f"a step of stages.{name} asks the engine {engine_name!r}, which is none of {LABELS}, {MODEL} and the "
                f"engines of the stage: {', '.join(stage.engines) or 'none'}"
            )
    if stage.teacher == MODEL and MODEL not in asked:
        raise ValueError(
            f"stages.{name}.teacher=model answers in the steps of a recipe, and none of them asks it; give one that "
            "does, such as recipe=answers"
        )


def _check_policy(config: Config, name: str, stage: StageConfig) -> None:
    """What training without sampled text asks of the paradigm and of the rewards."""
    paradigm = build_paradigm(config, config.paradigm)
    place = ""
    if isinstance(stage, SFTStage) and stage.is_ranking:
        place = f"stages.{name}.loss={stage.loss}"
    if isinstance(stage, GRPOStage) and stage.policy == "scores":
        place = f"stages.{name}.policy=scores"
    if place and not list_scores(paradigm):
        raise ValueError(
            f"{place} needs a paradigm that scores a list in one forward, such as pointwise or first_token; got "
            f"{config.paradigm!r}"
        )
    if not isinstance(stage, GRPOStage):
        return
    if stage.policy == "choice" and not has_choices(paradigm):
        raise ValueError(
            f"stages.{name}.policy=choice needs a paradigm whose prompts have but few answers, such as pointwise, "
            f"pointwise_graded, setwise or pairwise without reasoning; got {config.paradigm!r}"
        )
    for term in reward_terms(config) if stage.estimator != "group" else ():
        if not is_additive(term.reward):
            raise ValueError(
                f"stages.{name}.estimator={stage.estimator} needs rewards that are sums over places and say so by a "
                f"method `additive`, as ndcg, recall and reciprocal_rank do; {term.name!r} has none: use "
                "estimator=group"
            )


def _check_fused(config: Config, name: str, stage: RerankStage) -> None:
    for run in stage.fuse:
        other = config.stages[run]
        if isinstance(other, RerankStage) and other.split != stage.split:
            raise ValueError(
                f"stages.{name}.fuse names {run!r}, which ranks split {other.split!r} and not {stage.split!r}"
            )


def engine(config: Config, stage: StageConfig) -> EngineConfig | None:
    """What answers the stage's prompts; None where it asks none."""
    if (isinstance(stage, RerankStage) and stage.asks) or (isinstance(stage, SynthStage) and MODEL in _asked(stage)):
        return stage.engine or config.engine
    return config.engine if isinstance(stage, ExportStage) else None


def _asked(stage: SynthStage) -> list[str]:
    """Whom the steps of a synthesis ask: labels, model, or a name among its engines."""
    steps = build_steps(stage).values()
    return [step.engine or stage.teacher for step in steps if hasattr(step, "engine")]  # pyright: ignore


def _check_engine(config: Config, name: str, stage: StageConfig) -> None:
    """Refuse what an engine that is not over our model folders cannot do."""
    asked = engine(config, stage)
    if asked is None or asked.is_local:
        return
    own = "; a stage can have an engine of its own, such as stages.NAME.engine.kind=hf"
    if isinstance(stage, ExportStage):
        raise ValueError(f"stages.{name} exports a model of ours, for which engine.kind must be hf or vllm{own}")
    if isinstance(stage, RerankStage) and stage.model != "model":
        raise ValueError(
            f"stages.{name}.model={stage.model} cannot be asked through engine.kind={asked.kind}, which has a model of "
            f"its own: give model=model{own}"
        )
    if asked.kind == "cross_encoder" and not isinstance(stage, RerankStage):
        raise ValueError(f"stages.{name} needs generated answers, which a cross-encoder does not give{own}")
    if not isinstance(stage, RerankStage):
        return
    chosen = stage.paradigm or config.paradigm
    paradigm = build_paradigm(config, chosen)
    if asked.kind == "cross_encoder" and (paradigm.name != "pointwise" or stage.format_prompts):
        raise ValueError(
            f"stages.{name}: a cross-encoder scores a query with one document, so paradigm must be pointwise and "
            f"format_prompts empty{own}"
        )
    if asked.kind == "openai" and paradigm.continuations and asked.openai().tokenizer is None:
        raise ValueError(
            f"stages.{name}: the paradigm {chosen!r} scores {' and '.join(map(repr, paradigm.continuations))} "
            "at the answer position. A server is asked for these only if it is vLLM and engine.args.tokenizer names "
            "its model's tokenizer"
        )


def _check_launcher(launcher: LauncherConfig) -> None:
    for argument in launcher.args:
        name = argument.split("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and name in LAUNCHED:
            raise ValueError(
                f"launcher.args holds {argument}, which the launcher sets itself; give launcher.{LAUNCHED[name]}=VALUE"
            )
    if launcher.strategy not in STRATEGIES and not Path(launcher.strategy).is_file():
        raise FileNotFoundError(f"launcher.strategy={launcher.strategy!r}: there is no such accelerate configuration")


def _check_data(config: Config) -> None:
    build_source(config.data)
    if config.data.path is not None and not Path(config.data.path).exists():
        looked = str(Path(config.data.path).absolute())
        raise FileNotFoundError(f"data.path={config.data.path!r}: there is no such file or folder ({looked!r})")


def _needs(config: Config, stage: StageConfig) -> list[str]:
    if isinstance(stage, TrainingStage):
        rollout = stage.rollout if isinstance(stage, GRPOStage) else ""
        launched = ["accelerate"] if config.launcher.kind == "accelerate" else []
        sharded = ["deepspeed"] if launched and config.launcher.strategy.startswith("zero") else []
        return ["torch", "transformers", "trl", *(["vllm"] if rollout == "vllm" else []), *launched, *sharded]
    asked = engine(config, stage)
    engines = [*([] if asked is None else [asked]), *(stage.engines.values() if isinstance(stage, SynthStage) else ())]
    cluster = ["ray"] if isinstance(stage, SynthStage) and stage.executor == "ray" else []
    return [*cluster, *(package for one in engines for package in _engine_needs(one))]


def _engine_needs(asked: EngineConfig) -> list[str]:
    if asked.kind == "openai":
        return ["httpx2", "tenacity", *(["transformers"] if asked.openai().tokenizer else [])]
    own = {"vllm": ["vllm"], "cross_encoder": ["sentence_transformers"]}
    return ["torch", "transformers", *own.get(asked.kind, [])]
