"""What the report shows of one training stage: its curves and some of its completions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_rerank.evaluation.enough import too_few
from rl_rerank.pages.figures import Plot, Points, curves

NUM_SAMPLED_STEPS = 3
MAX_COMPLETION_CHARS = 1500

_CURVES = (
    ("loss", "loss"),
    ("reward", "reward"),
    ("grad_norm", "gradient norm"),
    ("well_formed", "share of well-formed answers"),
    ("completions/mean_length", "tokens of an answer"),
    ("kl", "KL to the reference"),
    ("rollout/logprob_gap", "nats between vLLM and the trainer"),
    ("group_variance_share", "share of the reward's variance within groups"),
    ("skipped_groups", "share of groups that teach nothing"),
)
_DEV = ("dev/", "eval/", "eval_")
_DEV_SHARES = ("dev/malformed", "dev/fallbacks", "dev/ties")
_DEV_COUNT = "dev/queries"
_DEV_VALUE, _DEV_EXPECTED = "dev/nDCG@10", "dev/expected_nDCG@10"
OPEN = 0.01
"""Difference of the two above which the order of what a model leaves open matters."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion that was sampled in training."""

    run: str
    """Empty where there is only one."""
    step: int
    qid: str
    query: str
    status: str
    reward: float
    rewards: Mapping[str, float]
    advantage: float | None
    completion: str


@dataclass(frozen=True, slots=True)
class Training:
    """One training stage."""

    name: str
    steps: int
    summary: str
    """What the reward did, a sentence a run; empty for stages without rewards."""
    plots: tuple[Plot, ...]
    samples: tuple[Sample, ...]


def training_plots(name: str, rows: Sequence[Mapping[str, Any]]) -> tuple[Plot, ...]:
    """What was logged of `_CURVES`, the reward's terms where there are several, and dev measures."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    window = max(3, len(rows) // 10) if len(rows) >= 6 else 1
    plots = [
        curves(f"{name}-{key.replace('/', '-')}", title, {title: points}, window)
        for key, title in _CURVES
        if (points := _points(rows, key))
    ]
    terms = [key for key in keys if key.startswith("reward/")]
    groups = {
        "terms": ("reward terms", terms if len(terms) > 1 else []),
        "dev": ("dev set", [k for k in keys if _is_dev_value(k) and not (k.startswith("dev/") and _few(rows))]),
        "dev-shares": ("dev set: shares of answers, and of pairs that tie", [k for k in _DEV_SHARES if k in keys]),
        "time": ("seconds of a step", [k for k in keys if k.startswith("time/") and any(row.get(k) for row in rows)]),
        "throughput": ("tokens a second", [k for k in keys if k.startswith("tokens_per_second/")]),
    }
    for suffix, (title, members) in groups.items():
        lines = {key: points for key in members if (points := _points(rows, key))}
        if lines:
            plots.append(curves(f"{name}-{suffix}", title, _short_keys(lines), window))
    return tuple(plots)


def open_orders(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Warn if the last dev value rests on the order of what the model left open, ties and unusable answers.

    Args:
        name: the training stage.
        rows: its `metrics.jsonl`.
    """
    evaluated = [row for row in rows if _DEV_VALUE in row and _DEV_EXPECTED in row]
    if not evaluated or _few(rows):
        return
    step, value, expected = (evaluated[-1][key] for key in ("step", _DEV_VALUE, _DEV_EXPECTED))
    if abs(value - expected) > OPEN:
        yield (
            f"{name}: nDCG@10 on dev queries is {value:.4f} at step {step} in the order that was drawn for ties and "
            f"unusable answers, and {expected:.4f} in expectation over such orders; do not read more into the first"
        )


def few_dev_queries(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What a page says instead of a training's values on too few dev queries; empty if it has none or enough."""
    return f"{name}, dev set: {_few(rows)}." if any(_DEV_VALUE in row for row in rows) and _few(rows) else ""


def overlaid_plots(name: str, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Plot, ...]:
    """The same values of several runs, one plot a value and one line a run.

    Args:
        logs: run -> the rows of its `metrics.jsonl`.
    """
    keys = dict.fromkeys(key for rows in logs.values() for row in rows for key in row)
    terms = [key for key in keys if key.startswith("reward/")]
    titles = dict(_CURVES) | {key: f"reward term {_short(key)}" for key in (terms if len(terms) > 1 else [])}
    titles |= {key: key for key in keys if _is_dev_value(key) or key in _DEV_SHARES}
    few = {run for run, rows in logs.items() if _few(rows)}
    window = max(3, min(map(len, logs.values())) // 10) if min(map(len, logs.values())) >= 6 else 1
    plots: list[Plot] = []
    for key, title in titles.items():
        hidden = few if key.startswith("dev/") and key not in _DEV_SHARES else ()
        lines = {run: points for run, rows in logs.items() if run not in hidden and (points := _points(rows, key))}
        if lines:
            plots.append(curves(f"{name}-{key.replace('/', '-')}", title, lines, window, is_named=True))
    return tuple(plots)


def choose_samples(rows: Sequence[Mapping[str, Any]], run: str = "") -> tuple[Sample, ...]:
    """The best and the worst completion of the first, the middle and the last step.

    Args:
        rows: a training stage's `completions.jsonl`.
        run: what the samples are said to come from.
    """
    steps = sorted({row["step"] for row in rows})
    places = (
        {round(i * (len(steps) - 1) / (NUM_SAMPLED_STEPS - 1)) for i in range(NUM_SAMPLED_STEPS)} if steps else set()
    )
    chosen: list[Sample] = []
    for place in sorted(places):
        of_step = sorted((row for row in rows if row["step"] == steps[place]), key=lambda row: -row["reward"])
        for row in of_step[:1] + (of_step[-1:] if len(of_step) > 1 else []):
            chosen.append(_sample(row, run))
    return tuple(chosen)


def _few(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a page says of the dev queries if they are too few; logs that do not count them count as 0."""
    return too_few(int(max((row.get(_DEV_COUNT, 0) for row in rows), default=0)))


def _is_dev_value(key: str) -> bool:
    return key.startswith(_DEV) and key not in (*_DEV_SHARES, _DEV_COUNT)


def _sample(row: Mapping[str, Any], run: str) -> Sample:
    return Sample(
        run=run,
        step=row["step"],
        qid=row["qid"],
        query=row.get("query", ""),  # older runs have none
        status=row["status"],
        reward=row["reward"],
        rewards=row.get("rewards", {}),
        advantage=row.get("advantage"),
        completion=row["completion"][:MAX_COMPLETION_CHARS],
    )


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> Points:
    values = ((row.get("step", number), row.get(key)) for number, row in enumerate(rows, start=1))
    return [(step, value) for step, value in values if isinstance(value, (int, float)) and math.isfinite(value)]


def _short_keys(lines: Mapping[str, Points]) -> dict[str, Points]:
    return {_short(key): points for key, points in lines.items()}


def _short(key: str) -> str:
    for prefix in ("reward/", "time/", "tokens_per_second/"):
        key = key.removeprefix(prefix)
    return key
