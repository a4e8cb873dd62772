"""What a grpo stage draws and rewards: `stages.NAME.policy`, one class for each kind with the settings that mean
something to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rl_rerank.config import Config, ListTargets, ModelConfig, Reference, at_least
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.paradigms.listwise import ORDER
from rl_rerank.reward.base import Term
from rl_rerank.stages.grpo.policy import PolicyConfig
from rl_rerank.stages.grpo.teachers import ScoreTeacher, TokenTeacher
from rl_rerank.stages.training import check_loss, list_tokens, refuse_targets, require_list_scores
from rl_rerank.training.exact.targets import require_scores
from rl_rerank.training.loop.batches import Step, Tokens

if TYPE_CHECKING:
    from pathlib import Path

    from trl.trainer.grpo_config import GRPOConfig

    from rl_rerank.stages.grpo.spec import GRPOStage
    from rl_rerank.stages.plugins import Plugins
    from rl_rerank.stages.preview import Preview


@dataclass(kw_only=True)
class TokensPolicy(PolicyConfig):
    """Sampled completions."""

    algorithm: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "gdpo", "rloo"] = "dr_grpo"
    """Formulas: rl_rerank/training/grpo/algorithms.py."""
    epsilon: float | None = None
    """Lower clip of the probability ratio, below 1; null: the algorithm's."""
    epsilon_high: float | None = None
    """Upper clip, above 1; for cispo the largest ratio itself."""
    kl_estimator: Literal["k3", "k3_weighted"] = "k3"
    """Estimate of the KL that `beta` weights. k3: r' - log r' - 1 with r' the ratio of the starting model's probability
    of a token to the policy's (verl's low_var_kl). k3_weighted: the same times the ratio of the policy to the one that
    sampled, whose gradient is that of the KL (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556; trl's default)."""
    updates_per_batch: int = 1
    """Optimizer steps that the prompts of one batch of completions are divided into: prompts_per_step times as many
    prompts are sampled at once, and each is trained on once. Above 1 the later steps are off their policy, and the
    ratio is clipped."""
    num_iterations: int = 1
    """Passes over one batch of completions (mu), each of `updates_per_batch` optimizer steps."""
    dynamic_sampling: int = 0
    """How many times per step groups with zero reward variance are replaced by groups of other prompts (DAPO). Those
    left over are skipped. 0 disables it."""
    zero_variance_std: float = 0.0
    """Reward standard deviation at or below which a group counts as having no signal."""
    shared_prefix: bool = True
    """Compute each prompt once for its group. Equal to the plain path, which models that cannot share take."""
    attention: Literal["sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = "sdpa"
    """Attention in training: sdpa works anywhere; the others on GPUs with what they need installed."""
    distill: TokenTeacher | None = None
    """A teacher of the sampled tokens, beside the rewards. Formula: rl_rerank/training/grpo/distillation.py."""

    @property
    def samples(self) -> bool:
        return True

    @property
    def has_teacher(self) -> bool:
        return self.distill is not None and self.distill.weight > 0

    @property
    def taught(self) -> str:
        if self.distill is None or not self.has_teacher:
            return ""
        return f"; teacher {self.distill.model}, weight {self.distill.weight:g}"

    def teacher(self, config: Config) -> ModelConfig | None:
        return self.distill.settings(config) if self.distill is not None and self.has_teacher else None

    def references(self) -> Iterator[Reference]:
        yield from () if self.distill is None else self.distill.references()

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps between two batches of completions."""
        return self.num_iterations * self.updates_per_batch

    def prompts_per_batch(self, stage: GRPOStage) -> int:
        """Prompts whose completions are sampled at once, over all processes."""
        return stage.prompts_per_step * self.updates_per_batch

    def check(self, name: str, stage: GRPOStage, plugins: Plugins) -> None:
        if self.distill is not None:
            self.distill.check(name, plugins.config, plugins.paradigm().max_completion_tokens)

    def preview(self, name: str, stage: GRPOStage, preview: Preview) -> None:
        if self.distill is not None:
            self.distill.check_vocabulary(name, preview)

    def check_stage(self, stage: GRPOStage) -> None:
        self._check_control(stage)
        lowest = {"updates_per_batch": 1, "num_iterations": 1, "dynamic_sampling": 0, "zero_variance_std": 0}
        at_least("grpo stage: policy", self, **lowest)
        if self.kl_estimator == "k3_weighted" and self.algorithm == "gspo":
            raise ValueError(
                "grpo stage: policy.kl_estimator=k3_weighted weights every token by its own ratio, and algorithm=gspo "
                "has one for the sequence; use k3"
            )
        if self.budget(stage) is not None and stage.trl.get("entropy_coef"):
            raise ValueError(
                f"grpo stage: trl.entropy_coef={stage.trl['entropy_coef']} is a mean over a micro-batch, and a token "
                "budget makes micro-batches of different sizes; set micro_batch instead"
            )
        if self.budget(stage) is None and (stage.micro_batch or 0) % stage.num_generations:
            raise ValueError(
                f"grpo stage: micro_batch={stage.micro_batch} is not a multiple of "
                f"num_generations={stage.num_generations}, so a group would be split; choose a multiple"
            )

    def whole_queries(self, name: str, stage: GRPOStage, terms: Sequence[Term], paradigm: Paradigm) -> int | None:
        """Processes may share a query's prompts: its completions are put together before they are scored."""
        comparing = [term.name for term in terms if term.needs_query]
        if not comparing:
            return None
        prompts, step = traits(paradigm).prompts_per_query, stage.prompts_per_step
        reason = (
            f"stages.{name}: the reward {comparing[0]!r} compares all completions of a query, and the paradigm "
            f"{paradigm.name} asks {prompts} prompts about one"
        )
        if step % prompts:
            whole, rest = divmod(step, prompts)
            raise ValueError(
                f"{reason}: prompts_per_step={step} = {whole} x {prompts} + {rest} would split a query; use a multiple "
                f"of {prompts}, such as {(whole + 1) * prompts}"
            )
        if self.dynamic_sampling and prompts > 1:
            raise ValueError(
                f"{reason}, so policy.dynamic_sampling={self.dynamic_sampling} would replace a part of a query; set it "
                "to 0"
            )
        return prompts

    def step(self, stage: GRPOStage) -> Step:
        rows = stage.prompts_per_step * stage.num_generations
        settings = f"prompts_per_step={stage.prompts_per_step} x num_generations={stage.num_generations} = {rows}"
        return Step(rows, "completions", settings, stage.num_generations, self.budget(stage))

    def arguments(self, config: Config, stage: GRPOStage, output: Path) -> GRPOConfig:
        from rl_rerank.training.loop.arguments import grpo_arguments

        completion = build_paradigm(config, config.paradigm).max_completion_tokens
        return grpo_arguments(config, stage, self, output, max_completion_tokens=completion)

    def tokens(self, stage: GRPOStage, plugins: Plugins, micro_batch: int) -> Tokens:
        prompts = -(-micro_batch // stage.num_generations) if self.shared_prefix else micro_batch
        note = f", a prompt computed once for its {'group' if self.shared_prefix else 'completion'}"
        return Tokens(prompts, micro_batch, plugins.paradigm().max_completion_tokens, note)

    def describe(self, stage: GRPOStage) -> str:
        completions = stage.prompts_per_step * stage.num_generations
        in_all = -(-stage.max_steps // self.steps_per_batch) * completions * self.updates_per_batch
        batch = f", sampled for {self.updates_per_batch} steps at once" if self.updates_per_batch > 1 else ""
        return (
            f"grpo from {stage.model}: {stage.max_steps} steps; {stage.prompts_per_step} prompts x "
            f"{stage.num_generations} generations = {completions} completions a step{batch}, {in_all} in all"
        )


@dataclass(kw_only=True)
class ScoresPolicy(ListTargets, PolicyConfig):
    """Orders of a list of documents, drawn by their scores in one forward."""

    unit: ClassVar[str] = "lists"
    kind: str = "scores"
    estimator: Literal["group", "pl_rank", "moves"] = "group"
    """How the gradient of the expected reward is estimated. group: advantages within the drawn orders, for any reward;
    pl_rank and moves have less variance, for position-based rewards such as nDCG, recall and the reciprocal rank.
    Formulas: rl_rerank/training/exact/rank_gradients.py."""
    list_size: int | None = None
    """Documents of a list, as in sft."""
    top_k: int | None = None
    """Use the probability of an order's first places only, enough where a reward looks no deeper; null: of all."""
    entropy: float = 0.0
    """Weight of a bonus on the entropy of the orders."""
    loss: str | None = None
    """A ranking loss that is minimised together with the reward's; null: none."""
    loss_params: dict[str, Any] = field(default_factory=dict)
    loss_weight: float = 1.0
    distill: ScoreTeacher | None = None
    """A teacher of the drawn orders, beside the rewards: the scores of the data. Formula:
    rl_rerank/training/exact/scores.py."""

    @property
    def learns_grades(self) -> bool:
        return self.target == "grades"

    @property
    def has_teacher(self) -> bool:
        return self.distill is not None and self.distill.weight > 0

    @property
    def taught(self) -> str:
        if self.distill is None or not self.has_teacher:
            return ""
        return f"; teacher: the data's scores, weight {self.distill.weight:g}"

    def rewarded(self, paradigm: Paradigm) -> Paradigm:
        return ORDER

    def check_stage(self, stage: GRPOStage) -> None:
        super().check_stage(stage)
        at_least("grpo stage: policy", self, list_size=2, top_k=1, entropy=0)
        if self.estimator != "group" and (stage.permute_rewards or stage.scale_rewards == "group"):
            raise ValueError(
                f"grpo stage: estimator={self.estimator} takes the rewards of places and has no groups of rewards; "
                "leave out permute_rewards and scale_rewards"
            )
        if self.loss is None and (self.loss_params or self.loss_weight != 1.0):
            raise ValueError("grpo stage: loss_params and loss_weight need a loss")
        if self.loss_weight <= 0:
            raise ValueError(f"grpo stage: loss_weight must be above 0; got {self.loss_weight}")

    def check(self, name: str, stage: GRPOStage, plugins: Plugins) -> None:
        require_list_scores(plugins, f"stages.{name}.policy=scores")
        place = f"stages.{name}.policy"
        if self.loss is None:
            refuse_targets(place, self, "without a loss", "weights", "curriculum")
        else:
            check_loss(place, self, plugins, self.loss, self.loss_params)
        for term in plugins.terms if self.estimator != "group" else ():
            if term.traits.position_based is None:
                raise ValueError(
                    f"stages.{name}.policy.estimator={self.estimator} needs position-based rewards, with a method "
                    f"`position_based` as ndcg, recall and reciprocal_rank have; {term.name!r} has none: use "
                    "estimator=group"
                )

    def preview(self, name: str, stage: GRPOStage, preview: Preview) -> None:
        if self.has_teacher and stage.data is None:
            require_scores(preview.store.examples("train"), self, f"stages.{name}.policy.distill")

    def tokens(self, stage: GRPOStage, plugins: Plugins, micro_batch: int) -> Tokens:
        return list_tokens(plugins, micro_batch, self.list_size)

    def describe(self, stage: GRPOStage) -> str:
        return f"{super().describe(stage)}, {stage.num_generations} orders of each"


@dataclass(kw_only=True)
class ChoicePolicy(PolicyConfig):
    """The answer, where a prompt has few of them: all are rewarded and weighted by their probabilities."""

    unit: ClassVar[str] = "prompts"
    kind: str = "choice"
    restrict_to_answers: bool = True
    """Renormalise probabilities over the valid answers. false: use the full vocabulary; mass outside the answers gets
    the reward of an empty completion, so the format is trained too (one forward per answer token)."""
    entropy: float = 0.0
    """Weight of a bonus on the entropy of the answers."""

    @property
    def sees_malformed(self) -> bool:
        return not self.restrict_to_answers

    def check_stage(self, stage: GRPOStage) -> None:
        super().check_stage(stage)
        at_least("grpo stage: policy", self, entropy=0)
        if stage.num_generations != type(stage).num_generations:
            self._refuse(f"num_generations={stage.num_generations}")

    def check(self, name: str, stage: GRPOStage, plugins: Plugins) -> None:
        paradigm = plugins.paradigm()
        if not traits(paradigm).has_choices:
            raise ValueError(
                f"stages.{name}.policy=choice needs a paradigm whose prompts have few answers, such as pointwise, "
                f"pointwise_graded, setwise or pairwise without reasoning; got {plugins.config.paradigm!r}"
            )

    def whole_queries(self, name: str, stage: GRPOStage, terms: Sequence[Term], paradigm: Paradigm) -> int | None:
        """No completions are sampled, so none can be compared."""
        comparing = [term.name for term in terms if term.needs_query]
        if comparing:
            raise ValueError(
                f"stages.{name}: the reward {comparing[0]!r} compares all completions of a query, and policy=choice "
                "weights the answers to each prompt by themselves; use policy=tokens"
            )
        return None

    def tokens(self, stage: GRPOStage, plugins: Plugins, micro_batch: int) -> Tokens:
        return Tokens(micro_batch, note=" for each token at which answers differ, which mostly is one")


POLICIES: dict[str, type[PolicyConfig]] = {"tokens": TokensPolicy, "scores": ScoresPolicy, "choice": ChoicePolicy}
