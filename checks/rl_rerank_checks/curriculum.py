"""Training curricula's mechanism: every pair of documents, or document, has its own weight, which rises to 1 until the
curriculum ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rl_rerank.config import CurriculumConfig, ListTargets
from rl_rerank.stages.check.finished_run import Finding, Run
from rl_rerank.stages.training import TrainingStage

WEIGHT = "curriculum/weight"
"""In metrics.jsonl: the mean weight of what a step's loss is made of; with /min and /max, the smallest and largest."""
ROUNDING = 1e-6
"""Of weights in float32."""


@dataclass(frozen=True)
class Curriculum:
    """A stage's weights of pairs, or documents in a pointwise loss, W = D + (t / m)(1 - D), differ within a step, have
    eases D in [0, 1], and end at 1.

    One weight for a whole batch would hardly change what is learned, because the optimizer divides gradients by their
    size.
    """

    stage: str
    at_least: float = 0.2
    """The smallest mean weight of a step."""
    differ: float = 0.9
    """The share of the steps before the end whose weights have to differ."""

    def refuse(self, run: Run) -> None:
        stage = run.config.stages.get(self.stage)
        if not isinstance(stage, TrainingStage) or _curriculum(stage) is None:
            raise LookupError(f"{self.stage!r} is no earlier stage with a curriculum of a ranking loss")
        if (logged := stage.trl.get("logging_steps", 1)) != 1:
            raise ValueError(f"{self.stage!r} logs means of {logged} steps, whose weights cannot be told apart")

    def __call__(self, run: Run) -> list[Finding]:
        config = _curriculum(run.config.stages[self.stage])
        assert config is not None
        rows = [row for row in run.rows(self.stage, "metrics.jsonl") if WEIGHT in row]
        # The row of step s, counted from 1, has the weights of t = s - 1.
        before = [row for row in rows if row["step"] <= config.steps]
        after = [row for row in rows if row["step"] > config.steps]
        return [
            self._means(rows, before),
            self._within_steps(before),
            self._eases(before, config.steps),
            self._end(after, config.steps),
        ]

    def _means(self, rows: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]]) -> Finding:
        means = [row[WEIGHT] for row in rows]
        what = f"{self.stage}: the mean weight of a step is from {self.at_least:g} to 1"
        inside = [self.at_least <= mean <= 1 + ROUNDING for mean in means]
        found = f"{sum(inside)} of {len(means)} steps"
        if before:
            found += f"; {before[0][WEIGHT]:.3f} in the first, {before[-1][WEIGHT]:.3f} in the last before the end"
        return Finding(what, bool(before) and all(inside), found)

    def _within_steps(self, before: Sequence[dict[str, Any]]) -> Finding:
        differ = sum(row[f"{WEIGHT}/max"] - row[f"{WEIGHT}/min"] > ROUNDING for row in before)
        what = f"{self.stage}: weights differ within at least {self.differ:.0%} of the steps before the end"
        return Finding(what, bool(before) and differ >= self.differ * len(before), f"{differ} of {len(before)} steps")

    def _eases(self, before: Sequence[dict[str, Any]], steps: int) -> Finding:
        eases = [
            (row[f"{WEIGHT}/{end}"] - share) / (1 - share)
            for row in before
            for end in ("min", "max")
            for share in [(row["step"] - 1) / steps]
        ]
        # Close to the end a weight's rounding is divided by little.
        room = ROUNDING * steps
        inside = bool(eases) and -room <= min(eases) and max(eases) <= 1 + room
        found = f"{min(eases):.3f} to {max(eases):.3f}" if eases else "no steps"
        return Finding(
            f"{self.stage}: weights are D + (t / {steps})(1 - D) with D from 0 to 1", inside, f"D is {found}"
        )

    def _end(self, after: Sequence[dict[str, Any]], steps: int) -> Finding:
        ended = sum(row[f"{WEIGHT}/{end}"] == 1 for row in after for end in ("min", "max"))
        what = f"{self.stage}: all weights are 1 from step {steps} on"
        return Finding(what, bool(after) and ended == 2 * len(after), f"{ended // 2} of {len(after)} steps")


def _curriculum(stage: Any) -> CurriculumConfig | None:
    """Of a ranking loss; the curriculum of a grpo stage itself chooses queries."""
    targets = stage if isinstance(stage, ListTargets) else getattr(stage, "policy", None)
    return getattr(targets, "curriculum", None)
