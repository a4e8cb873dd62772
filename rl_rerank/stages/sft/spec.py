"""Supervised fine-tuning: the stage's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from rl_rerank.config import Config, ListTargets, Reference, StageConfig, at_least, unknown_key
from rl_rerank.stages.training import (
    TrainingStage,
    check_answer_tokens,
    check_loss,
    list_tokens,
    refuse_targets,
    require_list_scores,
    token_budget,
)
from rl_rerank.training.loop.batches import Step, Tokens
from rl_rerank.training.loop.rank_weights import RankWeights

if TYPE_CHECKING:
    from pathlib import Path

    from trl.trainer.sft_config import SFTConfig

    from rl_rerank.stages.plugins import Plugins
    from rl_rerank.stages.preview import Preview

ANSWER_LOSSES: Mapping[str, Sequence[str]] = {
    "completion": (),
    "fullrank": [field.name for field in fields(RankWeights)],
}
"""Losses on the tokens of synthesised answers, with the names of their parameters."""


@dataclass(kw_only=True)
class SFTStage(ListTargets, TrainingStage):
    """Supervised fine-tuning: on synthesised answers, or by a ranking loss over lists of candidates."""

    data: str | None = None
    """The synth stage whose rows are used (ranking losses: its examples); null: `synth` (ranking losses: the training
    queries with their first-stage candidates)."""
    loss: str = "completion"
    """`completion`: cross-entropy on the answers' tokens. `fullrank`: the same with more weight on the first
    identifiers of an order. Or a ranking loss on the paradigm's logits: softmax, listnet, listmle, plackett_luce, bce,
    hinge, ranknet, lambdarank, first, skip_ranknet, ranklist_style, anchored_hinge, those of a teacher's scores mse,
    margin_mse, soft_ranknet, list_kl, or an installed plugin's. Formulas: rl_rerank/training/losses."""
    loss_params: dict[str, Any] = field(default_factory=dict)
    """Parameters of the loss."""
    batch_size: int = 16
    """Rows (ranking losses: lists) per optimizer step, over all processes."""
    list_size: int | None = None
    """Ranking losses: documents of a list, one of the highest grade and the others of lower ones; null: all
    candidates, or as many as the paradigm shows at once."""
    micro_batch_tokens: int | Literal["auto"] = "auto"
    """Token budget per forward and backward; a row or list above it runs alone. auto: as many as fit the GPU by the
    estimate of `rl-rerank plan`, 2,048 on a CPU; or micro_batch rows where that is given."""
    answer_weight: float = 0.3
    """Weight of an auxiliary cross-entropy on the correct answers (ranking losses); at 0 the model's sampled answers
    collapse to one. Whether a document is relevant is taken from its judgment, whatever the target."""

    @property
    def is_ranking(self) -> bool:
        """Whether the loss is one over lists and not over synthesised answers."""
        return self.loss not in ANSWER_LOSSES

    @property
    def source(self) -> str | None:
        """The synth stage that it reads; None: it reads the training queries."""
        return self.data or (None if self.is_ranking else "synth")

    @property
    def learns_grades(self) -> bool:
        return self.target == "grades"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("sft stage", self, batch_size=1, list_size=2, answer_weight=0)
        token_budget("sft stage", self.micro_batch_tokens, self.micro_batch)

    @property
    def trains_head(self) -> bool:
        return self.is_ranking

    @property
    def reads_scores(self) -> bool:
        return self.is_ranking

    def step(self) -> Step:
        unit = "lists" if self.is_ranking else "rows"
        budget = token_budget("sft stage", self.micro_batch_tokens, self.micro_batch)
        return Step(self.batch_size, unit, f"batch_size={self.batch_size}", micro_batch_tokens=budget)

    def prompt_tokens(self, plugins: Plugins, micro_batch: int) -> Tokens:
        if self.is_ranking:
            return list_tokens(plugins, micro_batch, self.list_size, with_answers=self.answer_weight > 0)
        return Tokens(micro_batch, micro_batch, self.completion_tokens(plugins))

    def preview(self, name: str, plugins: Plugins, preview: Preview) -> Iterator[str]:
        yield from super().preview(name, plugins, preview)
        if self.is_ranking:
            check_answer_tokens(name, plugins, preview)

    def arguments(self, config: Config, output: Path) -> SFTConfig:
        from rl_rerank.training.loop.arguments import sft_arguments

        return sft_arguments(config, self, output)

    def mixture(self, config: Config) -> Mapping[str, int]:
        if self.is_ranking:
            return super().mixture(config)
        teacher = config.stages.get(self.source or "")
        return {name: rows for name, rows in teacher.rows().items() if rows} if teacher is not None else {}

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        if self.source is not None:
            yield Reference("data", self.source, "examples")
        yield from super().references(before)

    def paradigms(self, plugins: Plugins) -> Sequence[str]:
        config = plugins.config
        teacher = None if self.is_ranking else config.stages.get(self.source or "")
        return [config.paradigm, *(teacher.rows() if teacher is not None else ())]

    def check(self, name: str, plugins: Plugins) -> None:
        place = f"stages.{name}"
        if self.is_ranking:
            check_loss(place, self, plugins, self.loss, self.loss_params)
            require_list_scores(plugins, f"{place}.loss={self.loss}")
        else:
            refuse_targets(place, self, f"to loss={self.loss}, which learns answers")
            known = ANSWER_LOSSES[self.loss]
            for key in self.loss_params:
                if key not in known:
                    raise ValueError(unknown_key(f"{place}.loss_params.{key}", key, known))
            try:
                RankWeights(**self.loss_params)
            except ValueError as e:
                raise ValueError(f"{place}.loss_params.{e}") from e
        super().check(name, plugins)

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        step = self.step()
        rows = step.rows * self.max_steps
        line = f"sft from {self.model}: {self.max_steps} steps x {step.rows} {step.unit} = {rows} {step.unit}"
        in_all = 0 if self.is_ranking else sum(self.mixture(plugins.config).values())
        passes = f" ({rows / in_all:.1f} passes over {in_all})" if in_all else ""
        if self.is_ranking and (self.source is not None or not self.learns_grades):
            line += f", towards the {self.target} of {self.source or 'the training queries'}"
        return [line + passes, *self.describe_batches(name, plugins)]
