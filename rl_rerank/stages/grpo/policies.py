"""What a grpo stage draws and rewards: `stages.NAME.policy`, one class for each kind with the settings that mean
something to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rl_rerank.config import Config, ListTargets, at_least
from rl_rerank.paradigms.base import Paradigm, traits
from rl_rerank.paradigms.build import build_paradigm
from rl_rerank.reward.base import Term
from rl_rerank.stages.training import check_loss, list_tokens, refuse_targets, require_list_scores, token_budget
from rl_rerank.training.loop.batches import Step, Tokens

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainingArguments
    from trl.trainer.grpo_config import GRPOConfig

    from rl_rerank.stages.grpo.spec import GRPOStage
    from rl_rerank.stages.plugins import Plugins


@dataclass(kw_only=True)
class PolicyConfig:
    """What is drawn and rewarded. The bare word `policy=scores` stands for `policy={kind: scores}`."""

    kind: str = "tokens"
    """tokens: sampled completions. scores: orders of a list of documents, drawn by their scores in one forward
    (Plackett-Luce). choice: the answer, where a prompt has few of them: all are rewarded and weighted by their
    probabilities."""
    micro_batch_tokens: int | Literal["auto"] = "auto"
    """Token budget per forward and backward; what is above it runs alone, a group divided into completions. auto: as
    many as fit the GPU by the estimate of `rl-rerank plan`, 2,048 on a CPU; or the stage's micro_batch where that is
    given."""

    has_shorthand: ClassVar[bool] = True
    unit: ClassVar[str] = "completions"
    """What a row of a step is."""

    @staticmethod
    def chosen(value: Any, place: str) -> type[PolicyConfig]:
        """The class of the policy that a mapping with `kind` describes."""
        kind = value.get("kind", "tokens") if isinstance(value, Mapping) else None
        if kind not in POLICIES:
            raise ValueError(f"{place}.kind must be one of {', '.join(POLICIES)}; got {kind!r}")
        return POLICIES[kind]

    @property
    def samples(self) -> bool:
        """Whether it samples completions."""
        return False

    @property
    def learns_grades(self) -> bool:
        """Whether a query teaches by the grades of its candidates, and not by a teacher's scores or order."""
        return True

    def budget(self, stage: GRPOStage) -> int | Literal["auto"] | None:
        """The token budget of a micro-batch; None where it has a fixed number of rows."""
        return token_budget("grpo stage: policy", self.micro_batch_tokens, stage.micro_batch)

    def check_stage(self, stage: GRPOStage) -> None:
        """Refuse settings of the stage that mean nothing to this policy."""
        self.budget(stage)
        if stage.scale_rewards == "batch":
            raise ValueError(f"grpo stage: scale_rewards must be group or none with policy={self.kind}; got batch")
        if stage.rollout.kind != "hf":
            self._refuse(f"rollout={stage.rollout.kind}")
        if stage.curriculum is not None:
            self._refuse("curriculum")

    def _refuse(self, setting: str) -> None:
        raise ValueError(f"grpo stage: {setting} means nothing to policy={self.kind}; leave it out")

    def check(self, name: str, stage: GRPOStage, plugins: Plugins) -> None:
        """Refuse a paradigm or a reward that this policy cannot train."""

    def whole_queries(self, name: str, stage: GRPOStage, terms: Sequence[Term], paradigm: Paradigm) -> int | None:
        """Prompts of a query that one step has to contain together; None where no reward compares them.

        Raises:
            ValueError: with the arithmetic, if a step would end within a query; or if completions are compared where
                none are sampled.
        """
        return None

    def step(self, stage: GRPOStage) -> Step:
        """The rows of one optimizer step."""
        settings = f"prompts_per_step={stage.prompts_per_step}"
        return Step(stage.prompts_per_step, self.unit, settings, micro_batch_tokens=self.budget(stage))

    def arguments(self, config: Config, stage: GRPOStage, output: Path) -> TrainingArguments:
        """Build the arguments of its trainer. Imports trl."""
        from rl_rerank.training.loop.arguments import policy_arguments

        return policy_arguments(config, stage, output)

    def tokens(self, stage: GRPOStage, plugins: Plugins, micro_batch: int) -> Tokens:
        """What a micro-batch computes at most."""
        raise NotImplementedError

    def describe(self, stage: GRPOStage) -> str:
        """What the stage will do, for the plan."""
        rows = f"{stage.max_steps} steps x {stage.prompts_per_step} = {stage.max_steps * stage.prompts_per_step}"
        return f"grpo on {self.kind} from {stage.model}: {rows} {self.unit}"


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

    @property
    def samples(self) -> bool:
        return True

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps between two batches of completions."""
        return self.num_iterations * self.updates_per_batch

    def prompts_per_batch(self, stage: GRPOStage) -> int:
        """Prompts whose completions are sampled at once, over all processes."""
        return stage.prompts_per_step * self.updates_per_batch

    def check_stage(self, stage: GRPOStage) -> None:
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

    @property
    def learns_grades(self) -> bool:
        return self.target == "grades"

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
