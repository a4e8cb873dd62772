"""Rules that find a broken training run in its logged rows. Free of torch.

A rule stops a run where going on cannot help: what is trained is lost, or nothing is trained. It only warns where a
sound run can look the same. Except for the first, its sign must last for `patience` steps.

not_finite: loss or gradient norm are not finite. Stops, as an update from them destroys the weights. Loss scaling for
    float16 skips such updates; there the sign must last too.
dead: every group has one reward for all its answers. Stops if it was always so, or if the reward is lower than before,
    because nothing is learned. Else it warns: a policy that answers every prompt right looks the same.
unreadable: no answer is well formed, as is none that is cut at the limit. Stops if every answer is cut, because no
    reward can teach it to end, or if most had been well formed, because the policy has collapsed. Else it warns: a
    reward may still teach the form.
entropy: the policy's entropy is gone. Warns: a solved task ends there, and what a collapse ruins breaks other rules.
kl: the KL to the starting model is too large. Stops, as what the start could do is lost. The estimate has outliers, so
    one step says nothing.
length: answers are much longer or shorter than in the first steps. Warns: reasoning grows, and a model that learns the
    form stops rambling.
no_gradient: the gradient is exactly 0. Warns: a ranking loss with a margin ends there when all pairs are right.

A run shorter than `patience` is judged at its end by all its steps, and only warned: so few may be chance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_rerank.config import at_least

Row = Mapping[str, Any]
"""A logged row: `step`, `loss`, and what the trainer measures. A value is None where it was not a number."""

WELL_FORMED, CLIPPED, LENGTH = "well_formed", "completions/clipped_ratio", "completions/mean_length"
FILE = "health.json"
"""In a training stage's folder: its warnings."""
MOSTLY = 0.5
"""Share of well-formed answers that says that the model knew the form."""


@dataclass(kw_only=True)
class HealthConfig:
    """Rules that stop or warn of a broken run. docs/training.md lists them."""

    patience: int = 20
    """Steps in a row with a sign before the rule applies."""
    min_entropy: float = 1e-3
    """Nats: per token of an answer (policy=tokens), per order (scores) or per answer (choice)."""
    max_kl: float = 20.0
    """Nats: per token of an answer (policy=tokens), per document of a list (scores) or per answer (choice)."""
    max_length_change: float = 5.0
    """Factor between the lengths of answers now and at the start, above 1."""

    def __post_init__(self) -> None:
        at_least("health", self, patience=1, min_entropy=0)
        if self.max_kl <= 0:
            raise ValueError(f"health: max_kl must be above 0; got {self.max_kl}")
        if self.max_length_change <= 1:
            raise ValueError(f"health: max_length_change must be above 1; got {self.max_length_change}")


@dataclass(frozen=True)
class Finding:
    """A broken rule."""

    rule: str
    stops: bool
    healthy: int
    """The last step without the sign. What it shows is of the weights before its update, so that a checkpoint of an
    earlier step is good, and its own may not be."""
    what: str
    cause: str


@dataclass(frozen=True)
class Arithmetic:
    """What numbers that are not finite may come from."""

    dtype: str = "float32"
    scales_loss: bool = False
    """Whether float16 loss scaling skips steps with gradients that are not finite."""
    learning_rate: float = 0.0
    usual_learning_rate: float = math.inf
    """The highest that is usual for such weights."""


@dataclass(frozen=True)
class Run:
    """What the rules know of a run."""

    rows: Sequence[Row]
    """Every logged step, in order; at least one."""
    patience: int
    limits: HealthConfig
    arithmetic: Arithmetic = Arithmetic()
    documents: int = 1
    """Documents of a list, over which the KL of an order adds up."""

    @property
    def last(self) -> Row:
        return self.rows[-1]

    def healthy(self, sign: Callable[[Row], bool]) -> int:
        """Return the last step without a sign; 0 if there is none."""
        return next((row["step"] for row in reversed(self.rows) if not sign(row)), 0)

    def lasts(self, sign: Callable[[Row], bool]) -> int | None:
        """Return the last healthy step if the sign has been there for `patience` steps since, else None."""
        healthy = self.healthy(sign)
        return healthy if self.last["step"] - healthy >= self.patience else None

    def after(self, step: int) -> list[Row]:
        return [row for row in self.rows if row["step"] > step]

    def until(self, step: int) -> list[Row]:
        return [row for row in self.rows if row["step"] <= step]


Rule = Callable[[Run], Finding | None]


def warnings(folder: Path) -> list[dict[str, Any]]:
    """Read the warnings of a training stage's folder: `step`, `rule` and `sentence` of each."""
    file = folder / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def examine(run: Run, rules: Sequence[Rule]) -> list[Finding]:
    """Apply rules to the last row of a run and the rows before it."""
    return [finding for rule in rules if (finding := rule(run)) is not None]


def first_step(row: Row) -> str:
    """Describe what the first row shows of answers and rewards."""
    known = {
        "of answers end": None if CLIPPED not in row else 1 - (row[CLIPPED] or 0.0),
        "of answers are well formed": row.get(WELL_FORMED),
        "of groups have one reward for all their answers": row.get("skipped_groups", row.get("frac_reward_zero_std")),
    }
    shares = [f"{value:.0%} {name}" for name, value in known.items() if value is not None]
    figures = [
        f"{key.replace('_', ' ')} {row[key]:.4g}" for key in ("loss", "grad_norm", "reward") if _is_finite(row.get(key))
    ]
    return f"step {row['step']}: " + ", ".join([*figures, *shares])


def cause_of_overflow(step: int, arithmetic: Arithmetic, norms: Sequence[float] = ()) -> str:
    """Name the likely cause of numbers that are not finite.

    Args:
        step: the step in which they were found.
        norms: of the gradients before it, the last one last.
    """
    if arithmetic.learning_rate > arithmetic.usual_learning_rate:
        return f"learning_rate={arithmetic.learning_rate:g} is too high"
    if arithmetic.dtype == "float16":
        return "float16 overflows above 65,504; use bfloat16 or float32"
    if norms and norms[-1] > 100 * sorted(norms)[len(norms) // 2]:
        return f"gradients grew to a norm of {norms[-1]:.3g} in the step before; lower learning_rate"
    if arithmetic.dtype == "bfloat16":
        return "bfloat16 has 8 bits of precision; use float32, or a lower learning_rate"
    if step <= 1:
        return "the loss of the first batch overflows; look at its rows, or at the starting model"
    return "the weights have left the range where the model computes; lower learning_rate"


def not_finite(run: Run) -> Finding | None:
    loss, norm, step = run.last.get("loss"), run.last.get("grad_norm"), run.last["step"]
    if not _is_finite(loss):
        healthy = step - 1
    elif _has_gradient(run.last):
        return None
    elif not run.arithmetic.scales_loss:
        healthy = step - 1
    elif (lasting := run.lasts(lambda row: not _has_gradient(row))) is not None:
        healthy = lasting
    else:
        return None
    shown = "not finite" if norm is None or norm < 0 else norm  # DeepSpeed's norm is -1 where it is not finite
    norms = [row["grad_norm"] for row in run.rows[:-1] if "grad_norm" in row and _has_gradient(row)]
    cause = cause_of_overflow(step, run.arithmetic, norms)
    return Finding("not_finite", True, healthy, f"the loss is {loss} and the gradient norm {shown}", cause)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _has_gradient(row: Row) -> bool:
    """Whether the norm of the gradient is a number; a row without one is not judged."""
    return "grad_norm" not in row or (_is_finite(row["grad_norm"]) and row["grad_norm"] >= 0)


def _is_dead(row: Row) -> bool:
    if "teacher_kl" in row:  # a teacher teaches whatever the rewards are
        return False
    constant = [value for key, value in row.items() if key.endswith("/constant_groups")]
    return row.get("skipped_groups") == 1.0 or (bool(constant) and all(value == 1.0 for value in constant))


def _dead(run: Run) -> Finding | None:
    if (healthy := run.lasts(_is_dead)) is None:
        return None
    rows, before = run.after(healthy), run.until(healthy)
    what = f"every group had one reward for all its answers in the last {_count(run, healthy)}"
    if before and _mean(rows, "reward") >= _mean(before, "reward"):
        return Finding("dead", False, healthy, what, "the policy has settled on one answer to every prompt")
    cause = _cause_of_death(rows, was_alive=bool(before))
    return Finding("dead", not _has_ranking_loss(run.last), healthy, f"{what}, so none of them teaches anything", cause)


def _has_ranking_loss(row: Row) -> bool:
    """Whether policy=scores also learns from labels."""
    return "ranking_loss" in row


def _cause_of_death(rows: Sequence[Row], *, was_alive: bool) -> str:
    if all(row.get(CLIPPED) == 1.0 for row in rows):
        return _NO_END
    if all(row.get(WELL_FORMED) == 0.0 for row in rows):
        return _NO_FORM if not was_alive else _COLLAPSE
    names = {key.split("/")[1] for row in rows for key in row if key.endswith("/constant_groups")}
    ranges = {
        name: (min(row[f"rewards/{name}/min"] for row in rows), max(row[f"rewards/{name}/max"] for row in rows))
        for name in sorted(names)
    }
    if ranges and all(low == high for low, high in ranges.values()):
        values = ", ".join(f"{name} {low:g}" for name, (low, _) in ranges.items())
        return f"the reward is the same for all completions ({values}); read them in completions.jsonl"
    if was_alive:
        return _COLLAPSE
    return (
        "the model gives one answer to each prompt, or answers that the reward cannot tell apart; raise temperature or "
        "num_generations, or use a finer reward"
    )


_NO_END = "no answer ends; check the model's stop tokens, and max_completion_tokens of the paradigm"
_NO_FORM = "the model does not know the form of the answer; start from an sft stage that teaches it"
_COLLAPSE = "the policy has collapsed; lower learning_rate, or raise beta"


def _unreadable(run: Run) -> Finding | None:
    if (healthy := run.lasts(lambda row: row.get(WELL_FORMED) == 0.0)) is None:
        return None
    what = f"no answer was well formed in the last {_count(run, healthy)}"
    best = max((row.get(WELL_FORMED) or 0.0 for row in run.until(healthy)), default=0.0)
    if all(row.get(CLIPPED) == 1.0 for row in run.after(healthy)):
        return Finding("unreadable", True, healthy, f"{what}, and every one was cut at the limit", _NO_END)
    if best >= MOSTLY:
        return Finding("unreadable", True, healthy, f"{what}, and {best:.0%} were before", _COLLAPSE)
    return Finding("unreadable", False, healthy, what, _NO_FORM)


def _entropy(run: Run) -> Finding | None:
    # Groups without a signal are skipped, and their entropy is not computed.
    least = run.limits.min_entropy
    healthy = run.lasts(lambda row: _is_dead(row) or (_is_finite(row.get("entropy")) and row["entropy"] < least))
    if healthy is None or all(_is_dead(row) for row in run.after(healthy)):
        return None
    what = f"the policy's entropy has been below {least:g} nats for {_count(run, healthy)}"
    cause = "the policy gives one answer to every prompt; raise temperature or an entropy bonus unless it is solved"
    return Finding("entropy", False, healthy, what, cause)


def _kl(run: Run) -> Finding | None:
    most = run.limits.max_kl * run.documents
    if (healthy := run.lasts(lambda row: (row.get("kl") or 0.0) > most)) is None:
        return None
    what = f"the KL to the starting model is {run.last['kl']:.3g} nats, above {most:g} for {_count(run, healthy)}"
    return Finding("kl", True, healthy, what, "learning_rate is too high, or beta too low")


def _length(run: Run) -> Finding | None:
    if LENGTH not in run.last or run.last["step"] < 2 * run.patience:
        return None
    first = _mean(run.until(run.patience), LENGTH)
    healthy = run.last["step"] - run.patience
    last = _mean(run.after(healthy), LENGTH)
    factor = run.limits.max_length_change
    if not first or first / factor <= last <= first * factor:
        return None
    what = f"answers have {last:.3g} tokens in the last {_count(run, healthy)}, and had {first:.3g} in the first"
    grown = "the reward favours long answers, or they no longer end"
    return Finding("length", False, healthy, what, grown if last > first else "the reward favours short answers")


def _no_gradient(run: Run) -> Finding | None:
    healthy = run.lasts(lambda row: row.get("grad_norm") == 0.0)
    if healthy is None or run.lasts(_is_dead) is not None:
        return None
    what = f"the gradient was exactly 0 in the last {_count(run, healthy)}, so nothing is learned"
    return Finding("no_gradient", False, healthy, what, "no row has anything to learn, or the loss is at its minimum")


def _count(run: Run, healthy: int) -> str:
    steps = run.last["step"] - healthy
    return f"{steps} step{'s' if steps != 1 else ''}"


def _mean(rows: Sequence[Row], key: str) -> float:
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else 0.0


RULES: Sequence[Rule] = (not_finite, _dead, _unreadable, _entropy, _kl, _length, _no_gradient)
