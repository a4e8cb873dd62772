"""Export: the stage's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rl_rerank.config import EngineConfig, LongDocumentsConfig, Reference, StageConfig, trained
from rl_rerank.paradigms.base import traits
from rl_rerank.ranking.methods import check as check_ranking
from rl_rerank.stages.rerank.spec import RerankStage
from rl_rerank.stages.training import TrainingStage

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class ExportStage(StageConfig):
    """A model folder that ranks: merged weights, tokenizer, reranker.json."""

    uploads: ClassVar[str] = "model"

    model: str = "grpo"
    """The name of a training stage, or NAME@STEP for one of its checkpoints; `model`: the untrained one."""
    long_documents: LongDocumentsConfig | None = None
    """How the exported model cuts, summarises or splits long documents; null: as the stage that trained it, or head for
    an average of models."""
    cross_encoder: bool = True
    """Let sentence-transformers' CrossEncoder load the folder if it gives the same scores; false: it always refuses."""
    sequence_classification: bool = False
    """Also write weights of a sequence classifier, whose logit is the score, for programs that serve those only."""

    calibration: str | None = None
    """A rerank stage of this model on development queries, to whose scores and judgments probabilities of relevance are
    fitted; null: the export has none."""

    def recorded(self, values: dict[str, Any]) -> dict[str, Any]:
        """Without settings that are as before they were here, so that runs from then stay what they are."""
        before = {"long_documents": None, "cross_encoder": True, "sequence_classification": False, "calibration": None}
        return {key: value for key, value in values.items() if key not in before or value != before[key]}

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        if self.model != "model":
            yield Reference.to_model("model", self.model, also=("model",))
        if self.calibration is not None:
            yield Reference("calibration", self.calibration, needs="a run")

    def reads(self, before: Mapping[str, StageConfig]) -> set[str]:
        return super().reads(before) | {name for name, stage in before.items() if stage.leaves == "measures"}

    def paradigms(self, plugins: Plugins) -> Sequence[str]:
        return [plugins.config.paradigm]

    def asks(self, plugins: Plugins) -> EngineConfig | None:
        return plugins.config.engine

    def documents(self, stages: Mapping[str, StageConfig]) -> LongDocumentsConfig:
        """How the exported model treats long documents."""
        start = stages.get(trained(self.model)[0])
        return self.long_documents or (
            start.long_documents if isinstance(start, TrainingStage) else LongDocumentsConfig()
        )

    def requires(self, plugins: Plugins) -> Sequence[str]:
        return ["jsonschema"]

    def check(self, name: str, plugins: Plugins) -> None:
        if (shown := traits(plugins.paradigm()).shown) != "text":
            raise ValueError(
                f"stages.{name} exports a model for texts, and the paradigm {plugins.config.paradigm!r} has "
                f"shown={shown}; leave the stage out, and take the model's folder as it is"
            )
        if self.calibration is not None:
            self._check_calibration(f"stages.{name}.calibration={self.calibration}", self.calibration, plugins)
        check_ranking(plugins.paradigm(), self.documents(plugins.config.stages), f"stages.{name}.")
        if plugins.engine(plugins.config.engine).has_own_model:
            raise ValueError(
                f"stages.{name} exports a model of ours, for which engine.kind must be hf or vllm; a stage can have an "
                "engine of its own, such as stages.NAME.engine.kind=hf"
            )

    def _check_calibration(self, place: str, calibration: str, plugins: Plugins) -> None:
        ranked = plugins.config.stages[calibration]
        if not isinstance(ranked, RerankStage) or not ranked.asks_model or ranked.model != self.model:
            raise ValueError(f"{place} must be a rerank stage with model={self.model}, whose scores these are")
        if ranked.split != "dev":
            raise ValueError(f"{place} ranks split {ranked.split!r}; probabilities are fitted on development queries")
        if ranked.paradigm not in ("", plugins.config.paradigm) or not traits(plugins.paradigm()).score_scale:
            raise ValueError(f"{place}: scores of {plugins.config.paradigm!r} do not stand for themselves")

    def results(self, folder: Path) -> list[str]:
        return [f"exported model: {path.parent}" for path in sorted(folder.rglob("reranker.json"))]
