"""Whether training improved what the model does on held-out queries."""

from dataclasses import dataclass

from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank_checks import held_out


@dataclass(frozen=True)
class Learned:
    """A rerank stage of the trained model earns more than one of its start on the same queries, by a paired test.

    The reward of training steps cannot show this: each step asks about other queries.
    """

    before: str
    after: str
    measure: str = held_out.REWARD
    """`reward`: the experiment's own, on the prompts that both were asked; or a measure such as nDCG@10."""

    def refuse(self, run: Run) -> None:
        held_out.refuse(run, (self.before, self.after), self.measure)

    def __call__(self, run: Run) -> list[Finding]:
        what = f"{self.after}: more {self.measure} than {self.before} on the same held-out queries (p < .05)"
        return [held_out.better(run, what, (self.before, self.after), self.measure)]
