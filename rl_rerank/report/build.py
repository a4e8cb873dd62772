"""Build the page from the evidence."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_rerank.data.overview import doubts, overview
from rl_rerank.evaluation import answers
from rl_rerank.evaluation.cost import pareto
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.measures import lower_is_better
from rl_rerank.evaluation.records import FormatShare, Metrics, RunRow
from rl_rerank.evaluation.table import learned, protocol_sentences, weight_sentences
from rl_rerank.io import rotated, trec
from rl_rerank.io.files import read_jsonl
from rl_rerank.pages import figures
from rl_rerank.pages.figures import Plot
from rl_rerank.report.evidence import Evidence
from rl_rerank.report.page import MAX_SAMPLE_CHARS, AnswerRow, IssueRow, Page
from rl_rerank.report.queries import QueryCard, answer_cards, choose_queries, query_card
from rl_rerank.report.training import (
    Training,
    choose_samples,
    few_dev_queries,
    open_orders,
    overlaid_plots,
    training_plots,
)


def build_page(evidence: Evidence, *, title: str, subtitle: str, config: str) -> Page:
    """The page about the evidence; it ends with `config`, the resolved configuration."""
    metrics = evidence.metrics
    formats = {row.label: metrics.format[row.run] for row in metrics.rows if row.run in metrics.format}
    paradigms = tuple(dict.fromkeys(paradigm for cells in formats.values() for paradigm in cells))
    change_plot, change_words = _change(metrics, evidence.pair)
    splits = overview(evidence.store)
    return Page(
        title=title,
        subtitle=subtitle,
        metrics=metrics,
        best={measure: _best(metrics, measure) for measure in metrics.measures},
        protocol=tuple(protocol_sentences(metrics)),
        weights=tuple(weight_sentences(metrics, is_page=True)),
        regressions=evidence.regressions,
        by_measure=evidence.by_measure,
        warnings=(*evidence.store.warnings, *doubts(splits), *evidence.untested, *_open_orders(evidence)),
        forest=_forest(metrics),
        frontiers=_frontiers(metrics),
        trainings=_trainings(evidence),
        formats=formats,
        format_paradigms=paradigms,
        format_plot=_format_plot(formats, paradigms),
        answers=_answers(evidence),
        change_plot=change_plot,
        change_words=change_words,
        system_labels=tuple(evidence.shown.values()),
        decisive=list(evidence.shown).index(_decisive(evidence)),
        queries=_queries(evidence),
        data=tuple(splits),
        config=config,
        facts={
            **metrics.provider,
            "collection fingerprint": evidence.store.fingerprint,
            **evidence.facts,
        },
    )


def _best(metrics: Metrics, measure: str) -> tuple[RunRow, ...]:
    """The rows with the best mean, where there are several rows."""
    rows = [row for row in metrics.rows if not row.too_few]
    if len(rows) < 2:
        return ()
    values = [row.mean[measure] for row in rows]
    best = min(values) if lower_is_better(measure) else max(values)
    return tuple(row for row in rows if row.mean[measure] == best)


def _forest(metrics: Metrics) -> Plot | None:
    measure = metrics.measures[0]
    rows = [
        (row.label, row.mean[measure], (low, high))
        for row in metrics.rows
        if measure in row.interval and not row.too_few
        for low, high in [row.interval[measure]]
    ]
    if len(rows) < 2:
        return None
    return figures.intervals("intervals", f"{measure} with 95% intervals; dashed: {rows[0][0]}", rows, rows[0][1])


def _change(metrics: Metrics, pair: tuple[str, str] | None) -> tuple[Plot | None, str]:
    """The plot of each query's change, and its summary in words."""
    if pair is None:
        return None, ""
    system, baseline = (metrics.labels[run] for run in pair)
    measure, values = metrics.measures[0], list(metrics.change(pair).values())
    if few := too_few(len(values)):
        return None, f"{system} against {baseline}: {few}."
    won, lost = sum(new > old for old, new in values), sum(new < old for old, new in values)
    title = f"{measure} of each query, {baseline} to {system}"
    words = f"{system} beats {baseline} on {won}, ties on {len(values) - won - lost} and loses on {lost}."
    return figures.changes("changes", title, values, measure, baseline, system), words


def _decisive(evidence: Evidence) -> str:
    """The system whose queries and documents are shown."""
    return evidence.pair[0] if evidence.pair else evidence.metrics.rows[-1].run


def _frontiers(metrics: Metrics) -> tuple[Plot, ...]:
    """Quality against tokens, which any machine shows alike, and against seconds, which users feel."""
    measure = metrics.measures[0]
    spent = [(r.label, cost, r.num_queries, r.mean[measure]) for r, cost in metrics.spent if not r.too_few]
    by_tokens = [(label, cost.tokens / n, quality) for label, cost, n, quality in spent if cost.tokens is not None]
    by_time = [(label, cost.seconds / n, quality) for label, cost, n, quality in spent]
    return tuple(
        figures.frontier(
            name,
            f"{measure} against {axis}; filled: nothing is as good for less",
            points,
            set(pareto([(x, y) for _, x, y in points])),
            axis,
            measure,
        )
        for name, axis, points in (
            ("frontier-tokens", "tokens a query", by_tokens),
            ("frontier-seconds", "seconds a query", by_time),
        )
        if len(points) > 1
    )


def _trainings(evidence: Evidence) -> tuple[Training, ...]:
    trends = evidence.metrics.training
    found: list[Training] = []
    for stage, folders in evidence.trainings.items():
        logs = {run: read_jsonl(folder / "metrics.jsonl") for run, folder in folders.items()}
        first = next(iter(logs.values()))
        names = {run: training_name(stage, run) for run in logs}
        samples = [s for run, folder in folders.items() for s in choose_samples(_completions(folder), run)]
        found.append(
            Training(
                name=stage,
                steps=max(map(len, logs.values())),
                summary=" ".join(
                    [learned(name, trends[name]) for name in names.values() if name in trends]
                    + [few for run, rows in logs.items() if (few := few_dev_queries(names[run], rows))]
                ),
                plots=training_plots(stage, first) if len(logs) == 1 else overlaid_plots(stage, logs),
                samples=tuple(samples),
            )
        )
    return tuple(found)


def _open_orders(evidence: Evidence) -> Iterator[str]:
    for stage, folders in evidence.trainings.items():
        for run, folder in folders.items():
            yield from open_orders(training_name(stage, run), read_jsonl(folder / "metrics.jsonl"))


def training_name(stage: str, run: str) -> str:
    """The key of a training stage in the metrics of one or several runs."""
    return f"{stage} ({run})" if run else stage


def _completions(folder: Path) -> list[Any]:
    path = folder / "completions.jsonl"
    return rotated.read(path) if path.is_file() else []


def _format_plot(formats: Mapping[str, Mapping[str, FormatShare]], paradigms: Sequence[str]) -> Plot | None:
    if not paradigms:
        return None
    values = {label: [cells[p].share if p in cells else None for p in paradigms] for label, cells in formats.items()}
    return figures.bars("well-formed", "share of well-formed answers", paradigms, values)


def _answers(evidence: Evidence) -> tuple[AnswerRow, ...]:
    found: list[AnswerRow] = []
    for name, label in evidence.metrics.labels.items():
        if rows := answers.read(evidence.folders[name]):
            statuses = Counter(row["status"] for row in rows)
            found.append(AnswerRow(label, dict(statuses.most_common()), _issues(rows)))
    return tuple(found)


def _issues(rows: Sequence[Mapping[str, Any]]) -> tuple[IssueRow, ...]:
    """How many answers have an issue of each kind, most common first, each with the first such answer."""
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    for row in rows:
        places = {issue["kind"]: issue["place"] for issue in reversed(row["issues"])}
        counts.update(places.keys())
        for kind, place in places.items():
            examples.setdefault(kind, (place, row["text"][:MAX_SAMPLE_CHARS]))
    return tuple(IssueRow(kind, count, *examples[kind]) for kind, count in counts.most_common())


def _queries(evidence: Evidence) -> tuple[QueryCard, ...]:
    metrics, shown, decisive = evidence.metrics, evidence.shown, _decisive(evidence)
    measure, per_query, pair = metrics.measures[0], metrics.per_query, evidence.pair
    changes = {qid: new - old for qid, (old, new) in metrics.change(pair).items()} if pair else {}
    enough = {row.run for row in metrics.rows if not row.too_few}
    shown_changes = {} if too_few(len(changes)) else changes
    runs = {name: trec.read_run(evidence.folders[name] / "run.trec") for name in shown}
    asked = {name: _by_query(evidence.folders[name]) for name in pair or (decisive,)}
    pieces = {name: answers.texts(evidence.folders[name]) for name in asked}
    cards: list[QueryCard] = []
    for qid in choose_queries({qid: row[measure] for qid, row in per_query[decisive].items()}, changes):
        try:
            example = evidence.store.example(qid)
        except LookupError:
            # Nothing was found for this query, so there is nothing to show of it; its 0 stands in every mean.
            continue
        orders = [trec.trec_order(rankings.get(qid, {})) for rankings in runs.values()]
        values = [per_query[name].get(qid, {}).get(measure) if name in enough else None for name in shown]
        given = [
            answer_cards(metrics.labels[name], rows[qid], pieces[name]) for name, rows in asked.items() if rows.get(qid)
        ]
        cards.append(query_card(example, orders, values, shown_changes.get(qid), list(shown).index(decisive), given))
    return tuple(cards)


def _by_query(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in answers.read(folder):
        found[row["qid"]].append(row)
    return found
