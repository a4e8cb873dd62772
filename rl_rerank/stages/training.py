"""What both kinds of training stage share."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rl_rerank.config import (
    ListTargets,
    LongDocumentsConfig,
    LoraConfig,
    ModelConfig,
    Reference,
    StageConfig,
    at_least,
)
from rl_rerank.data import Store
from rl_rerank.data.examples import ExampleFile
from rl_rerank.engines.local import amx, embedded
from rl_rerank.paradigms.base import traits
from rl_rerank.prompts.rendering import Renderer
from rl_rerank.ranking.methods import check_training
from rl_rerank.training.loop import batches, health, lengths, owned
from rl_rerank.training.loop.health import HealthConfig
from rl_rerank.training.loop.training_prompts import none_teaches
from rl_rerank.training.memory.setup import Colocated, Setup
from rl_rerank.types import RankingExample

if TYPE_CHECKING:
    from rl_rerank.config import Config
    from rl_rerank.stages.plugins import Plugins
    from rl_rerank.stages.preview import Preview


@dataclass(kw_only=True)
class TrainingStage(StageConfig):
    """What both trainers share."""

    leaves: ClassVar[str] = "a model"
    is_launched: ClassVar[bool] = True

    model: str = "model"
    """Where to start: `model` for the configured model, the name of an earlier training stage, or NAME@STEP for one of
    its checkpoints."""
    learning_rate: float = 1e-5
    max_steps: int = 100
    """Optimizer steps."""
    micro_batch: int | None = None
    """Rows per forward and backward of one process; fewer where its share of a step is smaller. null: as
    micro_batch_tokens says."""
    schedule: Literal["linear", "cosine", "cosine_with_min_lr", "inverse_sqrt", "constant"] = "linear"
    """Course of the learning rate after the warm-up: linear and cosine fall to 0 at the last step, cosine_with_min_lr
    to the `min_lr` or `min_lr_rate` of trl.lr_scheduler_kwargs."""
    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises from 0, rounded to whole steps."""
    weight_decay: float = 0.0
    """AdamW's, of all weights but biases and norms."""
    lora: LoraConfig | None = None
    """null trains all weights."""
    bf16: bool | None = None
    """Compute in bfloat16, with float32 weights; null: where CUDA or the processor's AMX does so faster."""
    gradient_checkpointing: bool | None = None
    """Keep the inputs of layers only and compute the rest again in the backward, which takes about a third more
    arithmetic and a small part of the memory; null: on CUDA."""
    save_steps: int = 20
    seed: int = 1
    long_documents: LongDocumentsConfig = field(default_factory=LongDocumentsConfig)
    """How long documents are cut, summarised or split, as in rerank stages. maxp and sump need a ranking loss or
    policy=scores, which read scores: a document's comes from those of its passages, all of which are trained."""
    health: HealthConfig | None = field(default_factory=HealthConfig)
    """Rules that stop or warn of a broken run; null: only numbers that are not finite stop it."""
    trl: dict[str, Any] = field(default_factory=dict)
    """Any other field of trl's SFTConfig or GRPOConfig, or of transformers' TrainingArguments where no text is
    sampled."""

    def __post_init__(self) -> None:
        at_least(f"{self.kind} stage", self, max_steps=1, micro_batch=1, save_steps=1)
        if self.learning_rate <= 0:
            raise ValueError(f"{self.kind} stage: learning_rate must be above 0; got {self.learning_rate}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"{self.kind} stage: warmup_ratio must be from 0 to 1; got {self.warmup_ratio}")
        if not self.weight_decay >= 0:
            raise ValueError(f"{self.kind} stage: weight_decay must be at least 0; got {self.weight_decay}")
        floor = {"min_lr", "min_lr_rate"} & set(self.trl.get("lr_scheduler_kwargs") or ())
        if self.schedule == "cosine_with_min_lr" and len(floor) != 1:
            raise ValueError(
                f"{self.kind} stage: schedule=cosine_with_min_lr needs min_lr or min_lr_rate in "
                f"trl.lr_scheduler_kwargs; got {self.trl.get('lr_scheduler_kwargs')}"
            )

    def recorded(self, values: dict[str, Any]) -> dict[str, Any]:
        """Without the rules, which may be loosened to continue a run that they stopped."""
        # Runs from before documents could be cut here stay what they are.
        left_out = {"health"} if self.long_documents.mode != "head" else {"health", "long_documents"}
        return {key: value for key, value in values.items() if key not in left_out}

    def results(self, folder: Path) -> list[str]:
        return [f"warning: {row['sentence']}" for row in health.warnings(folder)]

    @property
    def start(self) -> str:
        return self.model

    budget_setting: ClassVar[str] = "micro_batch_tokens"
    """Where the stage has the token budget of a micro-batch."""

    @property
    def has_reference(self) -> bool:
        """Whether a second model stands beside the trained one, for the KL."""
        return False

    def teacher(self, config: Config) -> ModelConfig | None:
        """Settings of the teacher's model beside the trained one; None if there is none."""
        return None

    def colocated(self, context: int) -> Colocated | None:
        """The vLLM in its processes, for prompts with completions of up to `context` tokens; None if there is none."""
        return None

    def step(self) -> batches.Step:
        """The rows of one optimizer step."""
        raise NotImplementedError

    def prompt_tokens(self, plugins: Plugins, micro_batch: int) -> batches.Tokens:
        """Upper bound of the prompts and completions in a micro-batch."""
        raise NotImplementedError

    def renders(self, plugins: Plugins) -> bool:
        return True

    def preview(self, name: str, plugins: Plugins, preview: Preview) -> Iterator[str]:
        config, store = plugins.config, preview.store
        preview.refuse_unshown(name, "train", [plugins.paradigm(each) for each in self.mixture(config)])
        measured = lengths.measure(config, name, self, store, preview.tokenizer)
        # The prompts of a stage that trains on what an earlier one makes are not known yet.
        reads_made = any(reference.needs == "examples" for reference in self.references(config.before(self)))
        if not measured.tokens and not reads_made and self.learns_grades:
            raise none_teaches(store.examples("train"), plugins.paradigm(), None)
        yield from replace(measured, estimate=preview.is_estimate).lines()

    def mixture(self, config: Any) -> Mapping[str, int]:
        """The paradigms whose prompts it trains on -> their shares."""
        return {config.paradigm: 1}

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        if self.model != "model":
            yield Reference.to_model("model", self.model, also=("model",))

    def refuse_checkpoint(self, step: int) -> str | None:
        if step > self.max_steps:
            return f"it ends at step {self.max_steps}"
        if step % self.save_steps and step != self.max_steps:
            return f"it saves every {self.save_steps} steps (save_steps)"
        return None

    def requires(self, plugins: Plugins) -> Sequence[str]:
        launcher = plugins.config.launcher
        launched = ["accelerate"] if launcher.kind == "accelerate" else []
        sharded = ["deepspeed"] if launched and launcher.strategy.startswith("zero") else []
        return ["torch", "transformers", "trl", *launched, *sharded]

    def check(self, name: str, plugins: Plugins) -> None:
        config = plugins.config
        owned.refuse(f"stages.{name}", self.trl)
        batches.layout(name, self.step(), self.micro_batch, config.launcher.num_processes)
        lengths.check_context(config.model, name, self.completion_tokens(plugins))
        check_training(plugins.paradigm(), self.long_documents, f"stages.{name}.", reads_scores=self.reads_scores)
        self._check_lora(name, config.model)
        self._check_types(name, config.model)

    def _check_lora(self, name: str, model: ModelConfig) -> None:
        is_here = model.path == embedded.NAME or lengths.local_folder(model) is not None
        if self.lora is None or self.lora.target_modules == "all-linear" or not is_here:
            return
        try:
            # Imported when it is needed: it takes seconds, and the plan is also shown where torch is not installed.
            targets = importlib.import_module("rl_rerank.training.loop.lora_targets")
        except ImportError:
            return
        targets.check(model, name, self.lora, trains_head=self.trains_head)

    @property
    def learns_grades(self) -> bool:
        """Whether a query teaches by the grades of its candidates, and not by a teacher's scores or order."""
        return True

    @property
    def reads_scores(self) -> bool:
        """Whether the loss reads the scores of a list's documents."""
        return False

    @property
    def trains_head(self) -> bool:
        """Whether the loss reads the output of the model's head; trl's trainers multiply by its weight themselves."""
        return True

    def _check_types(self, name: str, model: ModelConfig) -> None:
        if model.dtype == "float16":
            raise ValueError(
                f"stages.{name} trains a model of model.dtype=float16, where gradients below 6e-8 are 0, because no "
                "loss is scaled; give bfloat16 or float32"
            )
        for option in ("fp16", "fp16_full_eval", "bf16_full_eval"):
            if self.trl.get(option):
                raise ValueError(
                    f"stages.{name}.trl.{option} is refused: float16 losses would need scaling, and evaluation in one "
                    "type alone casts the trained weights; bf16 chooses the arithmetic"
                )

    def completion_tokens(self, plugins: Plugins) -> int:
        """The longest completion that it may see."""
        paradigms = (plugins.paradigm(name) for name in self.mixture(plugins.config))
        return max((paradigm.max_completion_tokens for paradigm in paradigms), default=0)

    def memory(self, name: str, plugins: Plugins, *, is_cuda: bool) -> Setup:
        """Collect what decides the memory of one of its processes.

        Args:
            is_cuda: whether the processes have GPUs, which settings that are null follow.
        """
        config, step = plugins.config, self.step()
        launcher, model = config.launcher, config.model
        layout = batches.layout(name, step, self.micro_batch, launcher.num_processes)
        # Under a token budget steps are divided, and the smallest micro-batch is a row.
        rows = layout.micro_batch if step.micro_batch_tokens is None else 1
        shown = self.prompt_tokens(plugins, rows)
        return Setup(
            model=model,
            strategy="local" if launcher.kind == "local" else launcher.strategy,
            processes=launcher.num_processes,
            lora=self.lora,
            bf16=is_cuda or amx.is_used() if self.bf16 is None else self.bf16,
            checkpointing=is_cuda if self.gradient_checkpointing is None else self.gradient_checkpointing,
            has_reference=self.has_reference,
            teacher=self.teacher(config),
            tokens=shown.total(model.max_prompt_tokens),
            budget=step.micro_batch_tokens,
            is_rare=shown.is_rare,
            vllm=self.colocated(model.max_prompt_tokens + shown.completion_tokens),
        )

    def describe_batches(self, name: str, plugins: Plugins) -> list[str]:
        """The arithmetic of a step, and what of long documents it shows, for the plan."""
        config = plugins.config
        layout = batches.layout(name, self.step(), self.micro_batch, config.launcher.num_processes)
        tokens, row = (self.prompt_tokens(plugins, rows) for rows in (layout.micro_batch, 1))
        lines = batches.describe(layout, config.launcher, tokens, row, config.model.max_prompt_tokens)
        how = self.long_documents
        if how.mode != "head":
            each = ", a prompt for each passage, where the counts above have one a document" if how.splits else ""
            lines.append(f"long documents: {how.described}{each}")
        return lines


def token_budget(place: str, tokens: int | Literal["auto"], micro_batch: int | None) -> int | Literal["auto"] | None:
    """Return the token budget of a micro-batch; None where `micro_batch` is its number of rows.

    Raises:
        ValueError: if the budget is below 1, at `place`.
    """
    if tokens == "auto":
        return "auto" if micro_batch is None else None
    if tokens < 1:
        raise ValueError(f"{place}: micro_batch_tokens must be at least 1; got {tokens}")
    return tokens


def require_list_scores(plugins: Plugins, place: str) -> None:
    """Refuse a paradigm that does not score a list in one forward."""
    if not traits(plugins.paradigm()).list_scores:
        raise ValueError(
            f"{place} needs a paradigm that scores a list in one forward, such as pointwise or first_token; got "
            f"{plugins.config.paradigm!r}"
        )


def check_answer_tokens(name: str, plugins: Plugins, preview: Preview) -> None:
    """Refuse answers whose logits cannot be a list's scores, because they are not one token each, all different.

    Raises:
        ValueError: naming the stage `name`, the answer and its tokens.
    """
    if preview.is_estimate:
        return
    try:
        lists = importlib.import_module("rl_rerank.training.exact.lists")
    except ImportError:
        return
    budget = plugins.config.model.max_prompt_tokens
    try:
        lists.reading(plugins.paradigm(), Renderer(preview.tokenizer, max_prompt_tokens=budget))
    except ValueError as e:
        raise ValueError(f"stages.{name}: {e}") from None


def check_loss(place: str, targets: ListTargets, plugins: Plugins, name: str, params: Mapping[str, Any]) -> None:
    """Refuse a ranking loss that does not exist, or that cannot read the target or the weights."""
    loss = plugins.loss(place, name, params)
    if targets.target not in loss.targets:
        raise ValueError(
            f"{place}.target={targets.target} cannot be read by {place}.loss={name}, which reads "
            f"{' or '.join(loss.targets)}"
        )
    if targets.curriculum is None:
        return
    if not (loss.of_pairs or loss.of_documents):
        raise ValueError(
            f"{place}.curriculum weights pairs of documents, or single ones in a pointwise loss, and "
            f"{place}.loss={name} is made of neither; leave it out, or choose ranknet or bce"
        )
    if targets.curriculum.kind == "pass_rate":
        raise ValueError(f"{place}.curriculum.kind=pass_rate chooses queries by sampled answers; a loss has none")


def refuse_targets(place: str, targets: ListTargets, reason: str, *names: str) -> None:
    """Refuse settings of lists, all or those named, that have another value than their default."""
    for one in fields(ListTargets):
        value = getattr(targets, one.name)
        if one.name in (names or [one.name]) and value != one.default:
            shown = f"={value}".lower() if isinstance(value, (str, bool)) else ""
            raise ValueError(f"{place}.{one.name}{shown} means nothing {reason}; leave it out")


def training_examples(config: Config, data: str | None, store: Store) -> Sequence[RankingExample]:
    """Open the examples to train on: those of the synth stage `data`, or the training queries."""
    if data is None:
        return store.examples("train")
    return ExampleFile(Path(config.run_dir) / data / "examples.jsonl")


def list_tokens(plugins: Plugins, lists: int, list_size: int | None, *, with_answers: bool = False) -> batches.Tokens:
    """What a micro-batch of lists computes, at most."""
    paradigm = plugins.paradigm()
    shown, prompts = list_size or plugins.config.data.depth, lists
    if traits(paradigm).list_scores == "documents":
        prompts = lists * shown
    else:
        shown = min(shown, len(paradigm.continuations))
    completions = prompts if with_answers else 0
    note = f", {shown} documents a list"
    return batches.Tokens(prompts, completions, paradigm.max_completion_tokens, note, is_rare=prompts > lists)
