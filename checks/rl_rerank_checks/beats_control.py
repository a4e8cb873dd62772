"""Whether a gain is due to the reward: a control has trained on rewards permuted within groups."""

from dataclasses import dataclass, fields

from rl_rerank.config import trained
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.grpo.spec import GRPOStage
from rl_rerank_checks import held_out

DIFFERENT = "permute_rewards"


@dataclass(frozen=True)
class BeatsControl:
    """A rerank stage of the model earns more than one of its permuted-reward twin, by a paired test.

    A twin is a grpo stage with permute_rewards=true and otherwise the same settings.
    """

    model: str
    control: str
    measure: str = held_out.REWARD
    """`reward`: the experiment's own, on the prompts that both were asked; or a measure such as nDCG@10."""

    def refuse(self, run: Run) -> None:
        held_out.refuse(run, (self.control, self.model), self.measure)
        real, twin = (self._training(run, stage) for stage in (self.model, self.control))
        if real.permute_rewards or not twin.permute_rewards:
            raise ValueError(
                f"{self.control!r} has to rank with a model that was trained with permute_rewards=true, and "
                f"{self.model!r} with one that was not"
            )
        other = [f.name for f in fields(real) if f.name != DIFFERENT and getattr(real, f.name) != getattr(twin, f.name)]
        if other:
            said = ", ".join(f"{name} is {getattr(real, name)} and {getattr(twin, name)}" for name in other)
            raise ValueError(f"the models of {self.model!r} and {self.control!r} differ in more than rewards: {said}")

    def __call__(self, run: Run) -> list[Finding]:
        what = f"{self.model}: more {self.measure} than {self.control}, trained on permuted rewards (p < .05)"
        return [held_out.better(run, what, (self.control, self.model), self.measure)]

    @staticmethod
    def _training(run: Run, stage: str) -> GRPOStage:
        name = trained(run.rerank(stage).model)[0]
        found = run.config.stages.get(name)
        if not isinstance(found, GRPOStage):
            raise LookupError(f"the rerank stage {stage!r} ranks with {name!r}, which is no grpo stage")
        return found
