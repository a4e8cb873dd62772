"""Ranking the held-out queries: the stage's settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rl_rerank.config import (
    Config,
    EngineConfig,
    FeedbackConfig,
    FusionConfig,
    LongDocumentsConfig,
    Reference,
    StageConfig,
    TunedWeight,
    at_least,
    trained,
)
from rl_rerank.evaluation.measures import parse
from rl_rerank.io import digest
from rl_rerank.paradigms.base import members
from rl_rerank.ranking.methods import check as check_ranking
from rl_rerank.retrieval.dense import Dense
from rl_rerank.stages.cross_encoder.spec import CrossEncoderStage
from rl_rerank.stages.training import TrainingStage

if TYPE_CHECKING:
    from rl_rerank.config import EngineKind
    from rl_rerank.paradigms.base import Paradigm
    from rl_rerank.stages.plugins import Plugins
    from rl_rerank.stages.preview import Preview

BASELINES = ("first_stage", "untrained")
"""Roles of the runs that stand beside every number, whether an evaluate stage names them or not."""
WARNING = "warning"
"""In summary.json: a sentence, where no answer can be used."""

SPREADING = {"executor", "shards", "chunk"}
"""Settings of how fast the work is done, and how much of it at a time."""
FREE = {"split", "label", "fusion", "format_prompts", *SPREADING}
"""Settings in which the same system may differ on development queries."""
FUSION = "fusion"
"""In summary.json: the weight that was chosen on development queries."""


@dataclass(kw_only=True)
class RerankStage(StageConfig):
    """Rank the held-out queries with a model and write a run file."""

    leaves: ClassVar[str] = "a run"

    model: str = "model"
    """`model`, the name of a training stage, NAME@STEP for one of its checkpoints, or `first_stage` for the candidates
    as they came."""
    paradigm: str = ""
    """The paradigm that the model ranks with; empty: the experiment's."""
    fuse: list[str] = field(default_factory=list)
    """Names of two earlier rerank stages: their runs are fused as `fusion` says, and no model is asked."""
    run: str | None = None
    """A run file of another system, in TREC's format: its rankings of these queries are the stage's, and no model is
    asked."""
    feedback: FeedbackConfig | None = None
    """Search the collection again after feedback to the retriever; no model is asked. Needs data.first_stage=dense."""
    candidates: str = ""
    """Name of an earlier rerank stage whose order is ranked again, as in multi-stage pipelines; empty: the first
    stage's. The costs of both add up."""
    depth: int | None = None
    """With candidates: documents from the top of that order that are ranked; the others follow as they were. null:
    all."""
    engine: EngineConfig | None = None
    """The engine that answers; null: the experiment's."""
    label: str = ""
    """The row's name in tables; empty: the stage's name."""
    split: Literal["train", "dev", "test"] = "test"
    shuffle: bool = True
    """Show candidates in a seeded random order, so that no row leans on the first stage's."""
    reverse: bool = False
    """Show candidates in the reverse of the first stage's order; needs shuffle=false. How much a method leans on the
    order that it is shown is seen between this and shuffle=false."""
    shuffles: int = 1
    """Rank this many times, each in another random order, and average: scores, or ranks where the paradigm gives an
    order only. A paradigm that asks about one document at a time gains nothing."""
    retries: int = 0
    """Retries for an answer that does not parse, sampled at temperature 0.7 with a fixed seed."""
    long_documents: LongDocumentsConfig = field(default_factory=LongDocumentsConfig)
    fusion: FusionConfig | None = None
    """Fuse with the first stage, or how to fuse the two runs of `fuse`; null: the model's ranking as it is, and minmax
    with equal weights for `fuse`."""
    format_prompts: dict[str, int] = field(default_factory=dict)
    """paradigm -> number of held-out prompts answered greedily to measure the share of well-formed answers."""
    seed: int = 1
    executor: Literal["here", "ray"] = "here"
    """Where prompts are answered: `here`; or by workers of the `ray` cluster that the environment variable RAY_ADDRESS
    names (else one of this machine), whose machines see the run folder, data and models under the same paths."""
    shards: int = 1
    """executor=ray: workers, each with an engine of its own. The rankings do not depend on their number."""
    chunk: int = 64
    """executor=ray: queries that a worker answers together."""

    @property
    def asks_model(self) -> bool:
        """Whether a model is asked."""
        return self.model != "first_stage" and not self.fuse and self.run is None and self.feedback is None

    @property
    def role(self) -> str:
        """The row's role in a table: first_stage, untrained (the experiment's own model), fusion or system."""
        if self.fuse or self.fusion is not None:
            return "fusion"
        if self.run is not None or self.feedback is not None:
            return "system"
        if self.model == "first_stage":
            return "first_stage"
        return "untrained" if self.model == "model" and self.engine is None else "system"

    @property
    def is_baseline(self) -> bool:
        return self.role in BASELINES

    def __post_init__(self) -> None:
        at_least("rerank stage", self, shuffles=1, retries=0, depth=2, shards=1, chunk=1)
        if self.shards > 1 and self.executor == "here":
            raise ValueError(f"rerank stage: shards={self.shards} are workers of a cluster; give executor=ray")
        if self.shuffles > 1 and not self.shuffle:
            raise ValueError(f"rerank stage: shuffles={self.shuffles} needs shuffle=true, or every order is the same")
        if self.reverse and self.shuffle:
            raise ValueError("rerank stage: reverse=true needs shuffle=false, or candidates are in random order")
        if self.fuse and (len(self.fuse) != 2 or self.model != "model"):
            raise ValueError(
                f"rerank stage: fuse names two rerank stages and goes without a model; got {self.fuse} and "
                f"model={self.model}"
            )
        if self.run is not None and (self.fuse or self.candidates or self.fusion is not None or self.model != "model"):
            raise ValueError(
                f"rerank stage: run={self.run} is ranked already, so the stage has neither model nor fuse nor fusion "
                "nor candidates; name the stage in another one's fuse or candidates"
            )
        if self.feedback is not None and (self.run or self.fuse or self.candidates or self.model != "model"):
            raise ValueError(
                f"rerank stage: feedback of {self.feedback.of} ranks what a search finds, so the stage has neither "
                "model nor run nor fuse nor candidates"
            )
        if self.feedback is not None and self.fusion is not None:
            raise ValueError("rerank stage: feedback goes without fusion; fuse the stage in another one")
        if self.depth is not None and not self.candidates:
            raise ValueError(f"rerank stage: depth={self.depth} is of the order that candidates names; give that stage")
        if self.candidates and (not self.asks_model or self.fusion is not None):
            raise ValueError(
                f"rerank stage: candidates={self.candidates} is ranked again by a model alone, so the stage has "
                "neither model=first_stage nor fuse nor fusion"
            )
        if self.model == "first_stage" and self.fusion is not None:
            raise ValueError("rerank stage: model=first_stage cannot be fused with the first stage, which it is")
        if (tuned := self._tuned) is not None and len(tuned.dev) != (wanted := len(self.fuse) or 1):
            raise ValueError(
                f"rerank stage: fusion.weight.dev names {wanted} rerank {'stages' if wanted > 1 else 'stage'} of "
                f"development queries, as many as {'fuse' if self.fuse else 'there are models'}; got {tuned.dev}"
            )

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        for run in self.fuse:
            yield Reference("fuse", run, "a run")
        for run in self._tuned.dev if self._tuned else ():
            yield Reference("fusion.weight.dev", run, "a run")
        if self.candidates:
            yield Reference("candidates", self.candidates, "a run")
        if self.feedback is not None:
            yield Reference("feedback.of", self.feedback.of, "a run")
        if self.asks_model and self.model != "model":
            needs = "a model" if self.engine is None else self.engine.settings().asks
            yield Reference.to_model("model", self.model, needs, also=("model", "first_stage"))

    def recorded(self, values: dict[str, Any]) -> dict[str, Any]:
        # Runs from before a setting stay what they are.
        kept = {key: value for key, value in values.items() if key not in SPREADING}
        known = {key: value for key, value in kept.items() if value is not None or key not in ("run", "feedback")}
        return known if self.run is None else {**known, "run_sha256": digest.of_file(Path(self.run))}

    def requires(self, plugins: Plugins) -> Sequence[str]:
        return ["ray"] if self.executor == "ray" and self.asks_model else []

    def paradigms(self, plugins: Plugins) -> Sequence[str]:
        ranking = [self.paradigm or plugins.config.paradigm] if self.asks_model else []
        return [*ranking, *self.format_prompts]

    def prompting(self, plugins: Plugins) -> Sequence[str]:
        """Only the form is measured on prompts that a paradigm makes for training."""
        return list(self.format_prompts)

    @property
    def uses_default_paradigm(self) -> bool:
        return not self.paradigm

    def asks(self, plugins: Plugins) -> EngineConfig | None:
        return (self.engine or plugins.config.engine) if self.asks_model else None

    def renders(self, plugins: Plugins) -> bool:
        engine = self.asks(plugins)
        return engine is not None and not plugins.engine(engine).has_own_model

    def preview(self, name: str, plugins: Plugins, preview: Preview) -> Iterator[str]:
        preview.render_longest(name, self, plugins.paradigm(self.paradigm))
        yield from ()

    def check(self, name: str, plugins: Plugins) -> None:
        place = f"stages.{name}"
        if self.run is not None and not Path(self.run).is_file():
            raise FileNotFoundError(f"{place}.run={self.run!r}: there is no such file")
        before = self.feedback.of if self.feedback is not None else ""
        if before and not isinstance(first := plugins.config.data.first_stage, Dense):
            found = "the default" if first is None else first.kind
            raise ValueError(f"{place}.feedback moves the vectors of data.first_stage=dense, which is {found}")
        named = (*(("fuse", run) for run in self.fuse), ("candidates", self.candidates), ("feedback.of", before))
        for setting, run in named:
            if not run:
                continue
            split = getattr(plugins.config.stages[run], "split", self.split)
            if split != self.split:
                raise ValueError(f"{place}.{setting} names {run!r}, which ranks split {split!r} and not {self.split!r}")
        if self._tuned is not None:
            self._check_tuned(f"{place}.fusion.weight", self._tuned, plugins.config.stages)
        if (engine := self.asks(plugins)) is None:
            return
        advice = "; a stage can have an engine of its own, such as stages.NAME.engine.kind=hf"
        kind = plugins.engine(engine)
        if isinstance(stage := plugins.config.stages.get(trained(self.model)[0]), CrossEncoderStage):
            self._check_cross_encoder(place, plugins, stage, kind)
        elif kind.has_own_model and self.model != "model":
            raise ValueError(
                f"{place}.model={self.model} cannot be asked through engine.kind={engine.kind}, which has a model of "
                f"its own: give model=model{advice}"
            )
        paradigm = plugins.paradigm(self.paradigm)
        if self.format_prompts and not kind.generates:
            raise ValueError(
                f"{place}.format_prompts needs generated answers, which engine.kind={engine.kind} does not give; leave "
                f"it empty{advice}"
            )
        plugins.check_ranking(place, engine, paradigm, advice, compares=isinstance(stage, CrossEncoderStage))
        check_ranking(paradigm, self.long_documents, f"{place}.")

    def _check_cross_encoder(self, place: str, plugins: Plugins, stage: CrossEncoderStage, kind: EngineKind) -> None:
        """Refuse a cross-encoder that would be asked otherwise than it was trained."""
        if kind.model_label or trained(self.model)[1] is not None:
            raise ValueError(
                f"{place}.model={self.model} is a cross-encoder, which leaves no checkpoints, and takes the place of "
                "engine.args.model: leave both out"
            )
        learned, asked = plugins.paradigm(stage.paradigm).name, _names(plugins.paradigm(self.paradigm))
        if asked != {learned}:
            raise ValueError(
                f"{place}.model={self.model} was trained on {learned} prompts, and is asked with "
                f"{', '.join(sorted(asked))}"
            )

    @property
    def _tuned(self) -> TunedWeight | None:
        return self.fusion.tuned if self.fusion is not None else None

    def _check_tuned(self, place: str, tuned: TunedWeight, stages: Mapping[str, StageConfig]) -> None:
        """Refuse a weight that would be chosen on other queries than dev's, or for other systems."""
        parse(tuned.measure)
        for run, system in zip(tuned.dev, [stages[run] for run in self.fuse] or [self], strict=True):
            ranked = stages[run]
            if (split := getattr(ranked, "split", "")) != "dev":
                raise ValueError(
                    f"{place}.dev names {run!r}, which ranks split {split!r}: a weight is chosen on development "
                    "queries, so that the others stay untouched; give a stage with split=dev"
                )
            other = {f.name for f in fields(ranked) if getattr(ranked, f.name) != getattr(system, f.name, None)}
            if unlike := sorted(other - FREE):
                raise ValueError(
                    f"{place}.dev names {run!r}, which is another system than the one that is fused: they differ in "
                    f"{', '.join(unlike)}"
                )

    def results(self, folder: Path) -> list[str]:
        path = folder / "summary.json"
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return [f"warning: {summary[WARNING]}"] if WARNING in summary else []

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        if self.fuse:
            weight = f", the weight chosen on {' and '.join(self._tuned.dev)}" if self._tuned else ""
            return [f"rerank: {self.split} queries, {' and '.join(self.fuse)} fused{weight}"]
        if self.run is not None:
            return [f"rerank: {self.split} queries as in {self.run}"]
        if self.feedback is not None:
            return [f"rerank: {self.split} queries, searched again after feedback of {self.feedback.of}"]
        times = f", {self.shuffles} times" if self.shuffles > 1 else ""
        depth = self.depth or plugins.config.data.depth
        engine = self.asks(plugins)
        is_own = engine is not None and plugins.engine(engine).has_own_model and self.model == "model"
        ranker = engine.kind if engine is not None and is_own else self.model
        origin = f" of {self.candidates}" if self.candidates else ""
        shown = self._shown(plugins.config) if engine is not None else ""
        return [f"rerank: {self.split} queries with {ranker}, {depth} candidates{origin} each{times}{shown}"]

    def _shown(self, config: Config) -> str:
        """What of long documents is shown, if it is not their beginning or the model was trained on something else."""
        own = self.long_documents.described
        start = config.stages.get(trained(self.model)[0])
        learned = start.long_documents.described if isinstance(start, TrainingStage) else own
        if learned != own:
            return f", long documents {own}; trained with {learned}"
        return "" if own == "head" else f", long documents {own}"


def _names(paradigm: Paradigm) -> set[str]:
    """The paradigms of a strategy's prompts."""
    return {member.name for member in members(paradigm).values()}


def reported_protocol(config: Config, model: str) -> RerankStage:
    """Find how a training stage's model will be ranked on the test queries, so that dev queries are ranked alike.

    This is the first rerank stage that asks the model in the experiment's paradigm, without fusion; a rerank stage's
    defaults if there is none. Candidates are always shuffled: otherwise a model that copies the order shown would have
    the first stage's value.
    """
    for stage in config.stages.values():
        if not isinstance(stage, RerankStage) or not stage.asks_model or stage.engine is not None:
            continue
        if trained(stage.model)[0] == model and stage.paradigm in ("", config.paradigm):
            return replace(stage, fusion=None, shuffle=True, reverse=False)
    return RerankStage(kind="rerank")
