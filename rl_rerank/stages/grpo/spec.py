"""Reinforcement learning with group-relative advantages: the stage's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rl_rerank.config import Config, CurriculumConfig, ModelConfig, Reference, StageConfig, at_least
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.reward.base import Term
from rl_rerank.reward.trial import first_probe, refuse_undeclared, try_out
from rl_rerank.stages.grpo import dev_engine
from rl_rerank.stages.grpo.policies import ScoresPolicy, TokensPolicy
from rl_rerank.stages.grpo.policy import PolicyConfig
from rl_rerank.stages.grpo.rollouts import HFRollout, RolloutConfig
from rl_rerank.stages.rerank.spec import reported_protocol
from rl_rerank.stages.training import TrainingStage, check_answer_tokens
from rl_rerank.training.loop.batches import Step, Tokens
from rl_rerank.training.memory.setup import Colocated

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainingArguments

    from rl_rerank.data import Store
    from rl_rerank.stages.plugins import Plugins
    from rl_rerank.stages.preview import Preview

_OF_POLICY = (
    "algorithm epsilon epsilon_high num_iterations micro_batch_tokens shared_prefix attention list_size estimator "
    "top_k loss loss_params loss_weight entropy"
)


@dataclass(kw_only=True)
class GRPOStage(TrainingStage):
    """Reinforcement learning with group-relative advantages."""

    reads_rewards: ClassVar[bool] = True
    budget_setting: ClassVar[str] = "policy.micro_batch_tokens"
    moved: ClassVar[Mapping[str, str]] = {
        **{name: f"policy.{name}" for name in _OF_POLICY.split()},
        "held": "policy.restrict_to_answers",
        "refill_rounds": "policy.dynamic_sampling",
        "refill_min_std": "policy.zero_variance_std",
        "rollout_args": "rollout.args",
        "rollout_server": "rollout.address",
        "rollout_correction": "rollout.correction",
        "max_logprob_gap": "rollout.max_logprob_gap",
    }

    data: str | None = None
    """The synth stage whose examples are used; null: the training queries with their first-stage candidates."""
    policy: PolicyConfig = field(default_factory=TokensPolicy)
    rollout: RolloutConfig = field(default_factory=HFRollout)
    micro_batch: int | None = None
    """Completions (policy=scores: lists, choice: prompts) per forward and backward of one process. null: as
    policy.micro_batch_tokens says."""
    num_generations: int = 8
    """Completions sampled for each prompt (G); policy=scores: orders drawn for each list."""
    prompts_per_step: int = 8
    """Prompts (policy=scores: lists) per optimizer step, over all processes."""
    curriculum: CurriculumConfig | None = None
    """policy=tokens: sample some queries earlier than others; null: passes in random order."""
    temperature: float = 1.0
    beta: float = 0.0
    """Weight of the KL to the starting model."""
    scale_rewards: Literal["group", "batch", "none"] | None = None
    """Divide advantages by the standard deviation of the group, of the batch, or not at all; null: the algorithm's."""
    eval_steps: int | None = None
    """Rank dev queries before training, every this many steps and at the last, as the rerank stage of this model ranks
    the test queries; null: never."""
    eval_queries: int = 32
    """Number of dev queries ranked, the first ones."""
    eval_engine: Literal["rollout", "hf"] | None = None
    """Who answers dev queries. hf: transformers; rollout: the engine that samples rollouts; null: that one if it can
    (rollout=vllm), else hf."""
    keep: Literal["last", "best"] = "last"
    """Keep the last step's model, or the best on the dev queries, which is the starting model if no step beats it. The
    best one has a checkpoint in any case."""
    max_malformed: float = 0.5
    """A step with a larger share of malformed answers on the dev queries cannot be the best."""
    max_ties: float = 0.95
    """Nor can a step with a larger share of document pairs with equal scores."""
    patience: int | None = None
    """Stop after this many evaluations without a new best; null: never."""
    logged_completions: int = 64
    """Rows of the completions table a step: of whole queries, drawn at random, and of one query at least."""
    permute_rewards: bool = False
    """A control: train on rewards permuted within groups. The logged rewards stay the true ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_generations < 2:
            raise ValueError(
                "grpo stage: num_generations must be at least 2, because the advantage is relative to the group; "
                f"got {self.num_generations}"
            )
        at_least("grpo stage", self, prompts_per_step=1, eval_steps=1, eval_queries=1, patience=1, beta=0)
        at_least("grpo stage", self, logged_completions=1)
        for name in ("max_malformed", "max_ties"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"grpo stage: {name} must be from 0 to 1; got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(
                f"grpo stage: temperature must be above 0, because greedy completions of one prompt are all the same; "
                f"got {self.temperature}"
            )
        if self.eval_steps is None and (self.keep == "best" or self.patience is not None):
            raise ValueError("grpo stage: keep=best and patience need eval_steps, which says how often is measured")
        if self.eval_steps is None and self.eval_engine is not None:
            raise ValueError(f"grpo stage: eval_engine={self.eval_engine} ranks dev queries, which needs eval_steps")
        self.policy.check_stage(self)

    @property
    def learns_grades(self) -> bool:
        return self.policy.learns_grades

    @property
    def trains_head(self) -> bool:
        return not isinstance(self.policy, TokensPolicy)

    @property
    def reads_scores(self) -> bool:
        return isinstance(self.policy, ScoresPolicy)

    @property
    def has_reference(self) -> bool:
        """With adapters, the model without them is the reference."""
        return self.beta > 0 and self.lora is None

    def teacher(self, config: Config) -> ModelConfig | None:
        return self.policy.teacher(config)

    def colocated(self, context: int) -> Colocated | None:
        return self.rollout.colocated(self.trl, context)

    def step(self) -> Step:
        return self.policy.step(self)

    def prompt_tokens(self, plugins: Plugins, micro_batch: int) -> Tokens:
        return self.policy.tokens(self, plugins, micro_batch)

    def preview(self, name: str, plugins: Plugins, preview: Preview) -> Iterator[str]:
        yield from super().preview(name, plugins, preview)
        self._try_rewards(name, plugins, preview.store)
        self.policy.preview(name, self, preview)
        if isinstance(self.policy, ScoresPolicy):
            check_answer_tokens(name, plugins, preview)
        if self.eval_steps is not None:
            protocol = replace(reported_protocol(plugins.config, name), split="dev")
            preview.render_longest(name, protocol, plugins.paradigm())

    def _try_rewards(self, name: str, plugins: Plugins, store: Store) -> None:
        """Refuse rewards that cannot score this stage's completions."""
        paradigm = self.policy.rewarded(plugins.paradigm())
        refuse_undeclared(f"stages.{name}", plugins.terms, paradigm)
        # What an earlier stage makes may have gold orders and scores, as made-up queries do; it is not there yet.
        examples = store.examples("train") if self.data is None and "train" in store.splits else ()
        probe = first_probe(examples, paradigm)
        if probe is not None:
            try_out(f"stages.{name}", plugins.terms, paradigm, probe, malformed=self.policy.sees_malformed)

    def arguments(self, config: Config, output: Path) -> TrainingArguments:
        return self.policy.arguments(config, self, output)

    def references(self, before: Mapping[str, StageConfig]) -> Iterator[Reference]:
        if self.data is not None:
            yield Reference("data", self.data, "examples")
        yield from super().references(before)
        yield from self.policy.references()

    def paradigms(self, plugins: Plugins) -> Sequence[str]:
        return [plugins.config.paradigm]

    def requires(self, plugins: Plugins) -> Sequence[str]:
        return [*super().requires(plugins), *self.rollout.requires]

    def recorded(self, values: dict[str, Any]) -> dict[str, Any]:
        kept = super().recorded(values)
        policy = {key: value for key, value in kept["policy"].items() if key != "distill" or value is not None}
        # Runs from before these settings stay what they are.
        return {**{key: value for key, value in kept.items() if key != "eval_engine" or value}, "policy": policy}

    def check(self, name: str, plugins: Plugins) -> None:
        if not plugins.config.rewards:
            raise ValueError(f"stages.{name} has no reward to train on; choose some with 'reward=[ndcg,format]'")
        super().check(name, plugins)
        self.policy.check(name, self, plugins)
        if (shown := traits(plugins.paradigm()).shown) != "text":
            blind = "rollout=vllm" if self.rollout.uses_vllm else self.teacher(plugins.config) and "a teacher"
            if blind:
                raise ValueError(
                    f"stages.{name}: the paradigm {plugins.config.paradigm!r} has shown={shown}, and {blind} sees no "
                    "images yet; use rollout=hf without a teacher, or shown=text"
                )
        self.whole_queries(name, plugins.terms, plugins.paradigm())
        if self.eval_steps is not None:
            dev_engine.kind(name, self, plugins.config, plugins.paradigm())

    def whole_queries(self, name: str, terms: Sequence[Term], paradigm: Paradigm) -> int | None:
        """Prompts of a query that one step has to contain together; None where no reward compares them."""
        return self.policy.whole_queries(name, self, terms, paradigm)

    def describe(self, name: str, plugins: Plugins) -> list[str]:
        lines = [self.policy.describe(self) + self.policy.taught, *self.describe_batches(name, plugins)]
        if self.eval_steps is not None and self.rollout.uses_vllm:
            lines.append(dev_engine.describe(name, self, plugins.config, plugins.paradigm()))
        return lines
