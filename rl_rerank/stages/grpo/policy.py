"""The base class of policies: what a grpo stage asks of the setting `policy`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rl_rerank.config import Config, ModelConfig, Reference
from rl_rerank.paradigms.base import Paradigm
from rl_rerank.reward.base import Term
from rl_rerank.stages.training import token_budget
from rl_rerank.training.loop.batches import Step, Tokens

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainingArguments

    from rl_rerank.stages.grpo.spec import GRPOStage
    from rl_rerank.stages.plugins import Plugins
    from rl_rerank.stages.preview import Preview


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
        from rl_rerank.stages.grpo.policies import POLICIES  # which derive from this class

        kind = value.get("kind", "tokens") if isinstance(value, Mapping) else None
        if kind not in POLICIES:
            raise ValueError(f"{place}.kind must be one of {', '.join(POLICIES)}; got {kind!r}")
        return POLICIES[kind]

    @property
    def samples(self) -> bool:
        """Whether it samples completions."""
        return False

    @property
    def sees_malformed(self) -> bool:
        """Whether rewards score malformed completions too."""
        return self.samples

    def rewarded(self, paradigm: Paradigm) -> Paradigm:
        """The paradigm of the completions that rewards score.

        Args:
            paradigm: the experiment's.
        """
        return paradigm

    @property
    def learns_grades(self) -> bool:
        """Whether a query teaches by the grades of its candidates, and not by a teacher's scores or order."""
        return True

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher teaches beside the rewards."""
        return False

    @property
    def taught(self) -> str:
        """Names the teacher, for the plan."""
        return ""

    def teacher(self, config: Config) -> ModelConfig | None:
        """Settings of the teacher's model in the training processes; None if there is none."""
        return None

    def references(self) -> Iterator[Reference]:
        """Yield references to the stages that its settings name."""
        yield from ()

    def budget(self, stage: GRPOStage) -> int | Literal["auto"] | None:
        """The token budget of a micro-batch; None where it has a fixed number of rows."""
        return token_budget("grpo stage: policy", self.micro_batch_tokens, stage.micro_batch)

    def check_stage(self, stage: GRPOStage) -> None:
        """Refuse settings of the stage that mean nothing to this policy."""
        self.budget(stage)
        self._check_control(stage)
        if stage.scale_rewards == "batch":
            raise ValueError(f"grpo stage: scale_rewards must be group or none with policy={self.kind}; got batch")
        if stage.rollout.kind != "hf":
            self._refuse(f"rollout={stage.rollout.kind}")
        if stage.curriculum is not None:
            self._refuse("curriculum")

    def _check_control(self, stage: GRPOStage) -> None:
        if self.has_teacher and stage.permute_rewards:
            raise ValueError(
                "grpo stage: permute_rewards permutes rewards alone, and the teacher of policy.distill would go on "
                "teaching, so the run would be no control; set policy.distill.weight=0"
            )

    def _refuse(self, setting: str) -> None:
        raise ValueError(f"grpo stage: {setting} means nothing to policy={self.kind}; leave it out")

    def check(self, name: str, stage: GRPOStage, plugins: Plugins) -> None:
        """Refuse a paradigm or a reward that this policy cannot train."""

    def preview(self, name: str, stage: GRPOStage, preview: Preview) -> None:
        """Refuse data and a teacher that this policy cannot learn from, before the first stage starts."""

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
