"""What both kinds of training stage share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rl_rerank.config import LoraConfig, ModelConfig, Reference, StageConfig, trained
from rl_rerank.paradigms.base import traits
from rl_rerank.training.loop import batches, lengths

if TYPE_CHECKING:
    from rl_rerank.stages.plugins import Plugins


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
    micro_batch: int = 4
    """Rows per forward and backward of one process; fewer where its share of a step is smaller."""
    warmup_ratio: float = 0.1
    lora: LoraConfig | None = None
    """null trains all weights."""
    bf16: bool | None = None
    """Compute in bfloat16, with float32 weights; null: where CUDA has bfloat16."""
    gradient_checkpointing: bool = False
    save_steps: int = 20
    seed: int = 1
    trl: dict[str, Any] = field(default_factory=dict)
    """Any other field of trl's SFTConfig or GRPOConfig, or of transformers' TrainingArguments where no text is
    sampled."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "micro_batch", "save_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.kind} stage: {name} must be at least 1; got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"{self.kind} stage: learning_rate must be above 0; got {self.learning_rate}")

    @property
    def start(self) -> str:
        return self.model

    def step(self) -> batches.Step:
        """The rows of one optimizer step."""
        raise NotImplementedError

    def prompt_tokens(self, plugins: Plugins, micro_batch: int) -> batches.Tokens:
        """Upper bound of the prompts and completions in a micro-batch."""
        raise NotImplementedError

    def mixture(self, config: Any) -> Mapping[str, int]:
        """The paradigms whose prompts it trains on -> their shares."""
        return {config.paradigm: 1}

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        if self.model != "model":
            yield Reference("model", trained(self.model)[0], "a model", also=("model",))

    def requires(self, plugins: Plugins) -> Sequence[str]:
        launcher = plugins.config.launcher
        launched = ["accelerate"] if launcher.kind == "accelerate" else []
        sharded = ["deepspeed"] if launched and launcher.strategy.startswith("zero") else []
        return ["torch", "transformers", "trl", *launched, *sharded]

    def check(self, name: str, plugins: Plugins) -> None:
        config = plugins.config
        batches.layout(name, self.step(), self.micro_batch, config.launcher.num_processes)
        lengths.check_context(config.model, name, self.completion_tokens(plugins))
        self._check_types(name, config.model)

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

    def describe_batches(self, name: str, plugins: Plugins) -> list[str]:
        """The arithmetic of a step, for the plan."""
        config = plugins.config
        layout = batches.layout(name, self.step(), self.micro_batch, config.launcher.num_processes)
        tokens = self.prompt_tokens(plugins, layout.micro_batch)
        return batches.describe(layout, config.launcher, tokens, config.model.max_prompt_tokens)


def require_list_scores(plugins: Plugins, place: str) -> None:
    """Refuse a paradigm that does not score a list in one forward."""
    if not traits(plugins.paradigm()).list_scores:
        raise ValueError(
            f"{place} needs a paradigm that scores a list in one forward, such as pointwise or first_token; got "
            f"{plugins.config.paradigm!r}"
        )


def list_tokens(plugins: Plugins, lists: int, list_size: int | None, *, with_answers: bool = False) -> batches.Tokens:
    """What a micro-batch of lists computes, at most."""
    paradigm = plugins.paradigm()
    shown, prompts = list_size or plugins.config.data.depth, lists
    if traits(paradigm).list_scores == "documents":
        prompts = lists * shown
    else:
        shown = min(shown, len(paradigm.continuations))
    completions = prompts if with_answers else 0
    return batches.Tokens(prompts, completions, paradigm.max_completion_tokens, f", {shown} documents a list")
