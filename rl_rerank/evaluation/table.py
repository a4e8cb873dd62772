"""The comparison table in Markdown, with its tests as sentences."""

from rl_rerank.evaluation import protocol
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.fusion_weight import WEIGHTS
from rl_rerank.evaluation.groups import GroupMeans
from rl_rerank.evaluation.records import SIGNIFICANT, Comparison, Metrics, RewardTrend, Row
from rl_rerank.io.markdown import cell, plain


def table(metrics: Metrics, *, is_page: bool = False) -> str:
    """The Markdown table of an evaluation, followed by its tests, one a line.

    Args:
        is_page: show no values of too few queries.
    """
    header = [
        "system",
        *(f"{m} [95% interval]" for m in metrics.measures),
        "queries",
        "missing",
        "malformed",
        "fallback",
    ]
    lines = [_row(header), _row(["---", *("---:" for _ in header[1:])])]
    for row, num_missing in metrics.table_rows:
        few = row.too_few if is_page else ""
        values = [few or _value(row, m) for m in metrics.measures]
        counts = [str(row.num_queries), str(num_missing)]
        lines.append(_row([cell(row.label), *values, *counts, share(row.malformed), share(row.fallback)]))
    if metrics.groups:
        lines += ["", *_by_group(metrics, is_page=is_page)]
    sentences = [untested(*test) if is_page and few_queries(test) else verdict(*test) for test in metrics.tests]
    sentences += [learned(stage, trend) for stage, trend in metrics.training.items()]
    sentences += weight_sentences(metrics, is_page=is_page)
    if sentences:
        lines += ["", *(f"- {plain(sentence)}" for sentence in sentences)]
    lines += ["", *map(plain, protocol_sentences(metrics))]
    return "\n".join(lines) + "\n"


def group_cell(means: GroupMeans, group: str, measure: str, *, is_page: bool) -> str:
    """A row's mean of a measure over one group; on a page none of too few queries, and a dash where it has none."""
    size = means.sizes.get(group, 0)
    if not size:
        return "-"
    return (too_few(size) if is_page else "") or f"{means.mean[measure][group]:.4f}"


def group_names(metrics: Metrics) -> dict[str, int]:
    """Group -> its number of queries, the most of any row."""
    found: dict[str, int] = {}
    for means in metrics.groups:
        for group, size in means.sizes.items():
            found[group] = max(size, found.get(group, 0))
    return found


def _by_group(metrics: Metrics, *, is_page: bool) -> list[str]:
    """The table of the first measure by group."""
    measure, names = metrics.measures[0], group_names(metrics)
    header = [
        f"{measure} by group",
        "macro average [95% interval]",
        *(f"{cell(g)} ({n} queries)" for g, n in names.items()),
    ]
    lines = [_row(header), _row(["---", *("---:" for _ in header[1:])])]
    for means in metrics.groups:
        if measure not in means.macro:
            return []
        few = too_few(sum(means.sizes.values())) if is_page else ""
        cells = [group_cell(means, group, measure, is_page=is_page) for group in names]
        lines.append(_row([cell(means.label), few or macro(means, measure), *cells]))
    return lines


def macro(means: GroupMeans, measure: str) -> str:
    """The mean over groups with its interval, where there is one."""
    interval = means.interval.get(measure)
    said = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
    return f"{means.macro[measure]:.4f}{said}"


def verdict(test: Comparison, system: Row, baseline: Row) -> str:
    """One paired test as a sentence."""
    low, high = test.interval
    evidence = (
        f"{test.difference:+.4f} {test.measure}, 95% interval {low:+.4f} to {high:+.4f}, "
        f"{p_values(test)} (randomisation), {p_value(test.p_value_t)} (t), {system.num_queries} queries"
    )
    if not test.is_significant:
        return f"{system.label} against {baseline.label}: no significant difference ({evidence})."
    return f"{system.label} is {'better' if test.is_gain else 'worse'} than {baseline.label} ({evidence})."


def few_queries(test: tuple[Comparison, Row, Row]) -> str:
    """What a page shows instead of a test; empty if both rows have enough queries."""
    _, system, baseline = test
    return system.too_few or baseline.too_few


def untested(test: Comparison, system: Row, baseline: Row) -> str:
    """One pair with too few queries as a sentence."""
    return f"{system.label} against {baseline.label}: {few_queries((test, system, baseline))}."


def learned(stage: str, trend: RewardTrend) -> str:
    """One training's reward as a sentence."""
    control = " (control: rewards permuted within groups)" if trend.control else ""
    change = "rises" if trend.p_value < SIGNIFICANT else "does not rise"
    return (
        f"{stage}{control}: the mean training reward {change}, {trend.reward_first_third:.4f} in the first third of "
        f"{trend.steps} steps, {trend.reward_last_third:.4f} in the last (one-sided {p_value(trend.p_value)})."
    )


def weight_sentences(metrics: Metrics, *, is_page: bool) -> list[str]:
    """Fusion weights that were chosen on development queries, each with the values that it was chosen by.

    Args:
        is_page: show no values of too few queries.
    """
    found: list[str] = []
    for run, label in metrics.labels.items():
        if (chosen := metrics.weights.get(run)) is None:
            continue
        each = ", ".join(f"{w:.2f}: {v:.4f}" for w, v in zip(WEIGHTS, chosen.values, strict=True))
        values = (too_few(chosen.num_queries) if is_page else "") or f"{chosen.measure} on dev by weight: {each}"
        found.append(
            f"{label}: weight {chosen.weight:.2f} ({chosen.method}), chosen on {chosen.num_queries} development "
            f"queries of {' and '.join(chosen.runs)}. {values}."
        )
    return found


def protocol_sentences(metrics: Metrics) -> list[str]:
    """Forced comparisons, and the protocols of the rows."""
    found = {row.label: metrics.protocols.get(row.run) for row in metrics.rows}
    return [*(f"Forced comparison: {reason}." for reason in metrics.forced), *protocol.sentences(found)]


def share(value: float | None) -> str:
    """A share as a percentage; a dash where no model was asked."""
    return "-" if value is None else f"{100 * value:.1f}%"


def p_values(test: Comparison) -> str:
    """The p-value of a test, and the adjusted one that decides if it is another."""
    by_holm = f", {p_value(test.p_value_holm)} by Holm" if test.p_value_holm != test.p_value else ""
    return f"{p_value(test.p_value)}{by_holm}"


def p_value(p: float) -> str:
    """A p-value as papers print it."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}" if p < 0.1 else f"p = {p:.2f}"


def _value(row: Row, measure: str) -> str:
    mean, interval = row.mean[measure], row.interval.get(measure)
    return f"{mean:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else f"{mean:.4f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
