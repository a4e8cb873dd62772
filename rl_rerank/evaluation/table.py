"""The comparison table, and what the tests say in words. Markdown for terminals and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl_rerank.evaluation import protocol
from rl_rerank.evaluation.measures import lower_is_better
from rl_rerank.evaluation.protocol import Protocol

SIGNIFICANT = 0.05


def table(metrics: Mapping[str, Any]) -> str:
    """The Markdown table of an evaluate stage's `metrics.json`, followed by its tests, one a line."""
    measures = metrics["measures"]
    lines = [
        _row(["system", *(f"{m} [95% interval]" for m in measures), "queries", "missing", "malformed", "fallback"]),
        _row(["---", *("---:" for _ in range(len(measures) + 4))]),
    ]
    over_seeds = metrics["over_seeds"]
    rows = [row | {"num_missing": len(metrics["missing"][row["run"]])} for row in metrics["rows"]]
    for row in [*rows, *over_seeds["rows"], *metrics["references"]]:
        values = [_value(row, m) for m in measures]
        counts = [str(row["num_queries"]), str(row["num_missing"])]
        lines.append(_row([row["label"], *values, *counts, share(row["malformed"]), share(row["fallback"])]))
    compared = [*metrics["comparisons"], *over_seeds["comparisons"]]
    sentences = [verdict(c, systems(metrics), queries(metrics, c)) for c in compared]
    sentences += [learned(stage, training) for stage, training in metrics["training"].items()]
    if sentences:
        lines += ["", *(f"- {sentence}" for sentence in sentences)]
    lines += ["", *protocol_sentences(metrics)]
    return "\n".join(lines) + "\n"


def verdict(comparison: Mapping[str, Any], labels: Mapping[str, str], num_queries: int) -> str:
    """One paired test as a sentence."""
    system, baseline = labels[comparison["system"]], labels[comparison["baseline"]]
    difference, (low, high) = comparison["difference"], comparison["interval"]
    adjusted = _adjusted(comparison)
    by_holm = f", {p_value(adjusted)} by Holm" if adjusted != comparison["p_value"] else ""
    evidence = (
        f"{difference:+.4f} {comparison['measure']}, 95% interval {low:+.4f} to {high:+.4f}, "
        f"{p_value(comparison['p_value'])} (randomisation{by_holm}), {p_value(comparison['p_value_t'])} (t), "
        f"{num_queries} queries"
    )
    if not is_significant(comparison):
        return f"{system} against {baseline}: no significant difference ({evidence})."
    is_better = (difference > 0) != lower_is_better(comparison["measure"])
    return f"{system} is {'better' if is_better else 'worse'} than {baseline} ({evidence})."


def is_significant(comparison: Mapping[str, Any]) -> bool:
    """Whether the paired randomisation test, adjusted by Holm for all comparisons, rejects "no difference" at 5%."""
    return _adjusted(comparison) < SIGNIFICANT


def learned(stage: str, training: Mapping[str, Any]) -> str:
    """One training's reward as a sentence."""
    control = " (control: rewards permuted within groups)" if training["control"] else ""
    first, last, p = training["reward_first_third"], training["reward_last_third"], training["p_value"]
    change = "rises" if p < SIGNIFICANT else "does not rise"
    return (
        f"{stage}{control}: the mean training reward {change}, {first:.4f} in the first third of "
        f"{training['steps']} steps, {last:.4f} in the last (one-sided {p_value(p)})."
    )


def protocol_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What the rows were made under, and what was compared by force."""
    found = {labels(metrics)[run]: kept and Protocol(**kept) for run, kept in metrics["protocols"].items()}
    return [*(f"Forced comparison: {reason}." for reason in metrics["forced"]), *protocol.sentences(found)]


def labels(metrics: Mapping[str, Any]) -> dict[str, str]:
    """run -> the name of its row."""
    return {row["run"]: row["label"] for row in metrics["rows"]}


def systems(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What can be compared, runs and systems of several seeds -> the name of its row."""
    return {name: row["label"] for name, row in _named(metrics)}


def queries(metrics: Mapping[str, Any], comparison: Mapping[str, Any]) -> int:
    """How many queries a comparison rests on."""
    return dict(_named(metrics))[comparison["system"]]["num_queries"]


def _named(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    rows = [(row["run"], row) for row in metrics["rows"]]
    return rows + [(row["system"], row) for row in metrics["over_seeds"]["rows"]]


def share(value: float | None) -> str:
    """A share as a percentage; a dash where nothing was asked."""
    return "-" if value is None else f"{100 * value:.1f}%"


def p_value(p: float) -> str:
    """A p-value as it is printed in papers."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}" if p < 0.1 else f"p = {p:.2f}"


def _adjusted(comparison: Mapping[str, Any]) -> float:
    # A comparison by itself has nothing to be adjusted for.
    return comparison.get("p_value_holm", comparison["p_value"])


def _value(row: Mapping[str, Any], measure: str) -> str:
    mean, interval = row["mean"][measure], row["interval"].get(measure)
    return f"{mean:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else f"{mean:.4f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
