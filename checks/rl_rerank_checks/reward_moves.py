"""Whether every part of a reward is alive in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl_rerank.stages.check.finished_run import Finding, Run


@dataclass(frozen=True)
class RewardMoves:
    """Every term, and every part of a composition, leaves the value of the first step.

    A term that never does teaches nothing, such as a recall@10 of windows of 10. Of a gate, whose value is often the
    same whenever it decides, it is the share of completions for which it does.
    """

    stage: str = "grpo"

    def __call__(self, run: Run) -> list[Finding]:
        steps = run.rows(self.stage, "metrics.jsonl")
        names = sorted({key for row in steps for key in row if key.startswith("reward/")})
        if not names:
            raise LookupError(f"stage {self.stage!r} has logged no reward")
        return [self._finding(name, steps) for name in names]

    def _finding(self, name: str, steps: Sequence[Mapping[str, float]]) -> Finding:
        label = name.removeprefix("reward/")
        is_gate = label.endswith("/gate")
        logged = f"rewards/{label.removesuffix('/gate')}/gated" if is_gate else name
        values = [row[logged] for row in steps if logged in row]
        moves = any(abs(value - values[0]) > 1e-9 for value in values)
        what = f"{self.stage}: {label} moves{', as a share of completions' if is_gate else ''}"
        found = f"{values[0]:.3g} at the first of {len(values)} steps, {min(values):.3g} to {max(values):.3g} over all"
        return Finding(what, moves, found)
