"""The page's parts, made of the evidence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_rerank.evaluation import answers
from rl_rerank.evaluation.cost import Cost, pareto
from rl_rerank.evaluation.measures import lower_is_better, trec_order
from rl_rerank.evaluation.table import is_significant, labels, learned, protocol_sentences, queries, systems
from rl_rerank.io import trec
from rl_rerank.io.files import read_jsonl
from rl_rerank.pages import figures
from rl_rerank.pages.figures import Plot
from rl_rerank.report.evidence import Evidence, Metrics
from rl_rerank.report.page import AnswerRow, Cell, CostRow, FormatCell, IssueRow, Page, SystemRow, Verdict
from rl_rerank.report.queries import QueryCard, answer_cards, choose_queries, query_card
from rl_rerank.report.training import Training, choose_samples, overlaid_plots, training_plots

MAX_SAMPLE_CHARS = 1500


def build_page(evidence: Evidence, *, title: str, subtitle: str, config: str) -> Page:
    """The page about the evidence; `config` stands under it as the resolved configuration."""
    metrics, pair = evidence.metrics, evidence.pair
    formats = _formats(metrics)
    paradigms = tuple(dict.fromkeys(paradigm for cells in formats.values() for paradigm in cells))
    return Page(
        title=title,
        subtitle=subtitle,
        measures=tuple(metrics["measures"]),
        systems=_systems(metrics),
        protocol=tuple(protocol_sentences(metrics)),
        forced=tuple(metrics["forced"]),
        verdicts=tuple(_verdict(metrics, c) for c in [*metrics["comparisons"], *metrics["over_seeds"]["comparisons"]]),
        regressions=evidence.regressions,
        by_measure=_by_measure(evidence),
        warnings=evidence.store.warnings,
        forest=_forest(metrics),
        costs=_costs(metrics),
        frontiers=_frontiers(metrics),
        trainings=_trainings(evidence),
        formats=formats,
        format_paradigms=paradigms,
        format_plot=_format_plot(formats, paradigms),
        answers=_answers(evidence),
        change_plot=_change_plot(metrics, pair),
        change_words=_change_words(metrics, pair),
        system_labels=tuple(evidence.shown.values()),
        decisive=list(evidence.shown).index(_decisive(evidence)),
        queries=_queries(evidence),
        num_queries=max(row["num_queries"] for row in metrics["rows"]),
        config=config,
        facts={
            **{f"{distribution}": version for distribution, version in metrics["provider"].items()},
            "collection fingerprint": evidence.store.fingerprint,
            **evidence.facts,
        },
    )


def _systems(metrics: Metrics) -> tuple[SystemRow, ...]:
    values = {m: [row["mean"][m] for row in metrics["rows"]] for m in metrics["measures"]}
    best = {m: min(found) if lower_is_better(m) else max(found) for m, found in values.items()}
    rows = [row | {"num_missing": len(metrics["missing"][row["run"]])} for row in metrics["rows"]]
    many = len(metrics["rows"]) > 1
    return tuple(
        SystemRow(
            label=row["label"],
            cells=tuple(
                Cell(
                    mean=row["mean"][m],
                    interval=row["interval"].get(m),
                    is_best=many and "run" in row and row["mean"][m] == best[m],
                )
                for m in metrics["measures"]
            ),
            num_queries=row["num_queries"],
            num_missing=row["num_missing"],
            malformed=row["malformed"],
            fallback=row["fallback"],
        )
        for row in [*rows, *metrics["over_seeds"]["rows"], *metrics["references"]]
    )


def _verdict(metrics: Metrics, comparison: Mapping[str, Any]) -> Verdict:
    names = systems(metrics)
    return Verdict(
        system=names[comparison["system"]],
        baseline=names[comparison["baseline"]],
        measure=comparison["measure"],
        difference=comparison["difference"],
        interval=comparison["interval"],
        p_value=comparison["p_value"],
        p_value_t=comparison["p_value_t"],
        num_queries=queries(metrics, comparison),
        is_gain=(comparison["difference"] > 0) != lower_is_better(comparison["measure"]),
        is_significant=is_significant(comparison),
    )


def change(metrics: Metrics, pair: tuple[str, str]) -> dict[str, tuple[float, float]]:
    """qid -> (baseline's value, system's value) of the first measure."""
    measure = metrics["measures"][0]
    system, baseline = (metrics["per_query"][run_name] for run_name in pair)
    return {qid: (baseline[qid][measure], system[qid][measure]) for qid in system if qid in baseline}


def _forest(metrics: Metrics) -> Plot | None:
    measure = metrics["measures"][0]
    rows = [
        (r["label"], r["mean"][measure], r["interval"][measure]) for r in metrics["rows"] if measure in r["interval"]
    ]
    if len(rows) < 2:
        return None
    return figures.intervals("intervals", f"{measure} with 95% intervals; dashed: {rows[0][0]}", rows, rows[0][1])


def _change_plot(metrics: Metrics, pair: tuple[str, str] | None) -> Plot | None:
    if pair is None:
        return None
    system, baseline = (labels(metrics)[run_name] for run_name in pair)
    measure = metrics["measures"][0]
    values = list(change(metrics, pair).values())
    return figures.changes(
        "changes", f"{measure} of each query, {baseline} to {system}", values, measure, baseline, system
    )


def _change_words(metrics: Metrics, pair: tuple[str, str] | None) -> str:
    if pair is None:
        return ""
    system, baseline = (labels(metrics)[run_name] for run_name in pair)
    values = change(metrics, pair).values()
    won, lost = sum(new > old for old, new in values), sum(new < old for old, new in values)
    return f"{system} beats {baseline} on {won}, ties on {len(values) - won - lost} and loses on {lost}."


def _by_measure(evidence: Evidence) -> Mapping[str, Mapping[str, Verdict]]:
    found: dict[str, dict[str, Verdict]] = defaultdict(dict)
    for comparison in evidence.by_measure:
        found[comparison["label"]][comparison["measure"]] = _verdict(evidence.metrics, comparison)
    return found


def _decisive(evidence: Evidence) -> str:
    """The system whose queries and documents are shown."""
    return evidence.pair[0] if evidence.pair else evidence.metrics["rows"][-1]["run"]


def _spent(metrics: Metrics) -> list[tuple[str, float, int, Cost]]:
    """(label, first measure, queries, cost) of every row whose cost is known."""
    measure = metrics["measures"][0]
    rows = [row for row in metrics["rows"] if row["cost"] and row["num_queries"]]
    return [(row["label"], row["mean"][measure], row["num_queries"], Cost(**row["cost"])) for row in rows]


def _costs(metrics: Metrics) -> tuple[CostRow, ...]:
    return tuple(
        CostRow(
            label=label,
            calls=cost.calls / number,
            rounds=cost.rounds,
            prompt_tokens=None if cost.prompt_tokens is None else cost.prompt_tokens / number,
            completion_tokens=None if cost.completion_tokens is None else cost.completion_tokens / number,
            seconds=cost.seconds / number,
        )
        for label, _, number, cost in _spent(metrics)
    )


def _frontiers(metrics: Metrics) -> tuple[Plot, ...]:
    """Quality against tokens, and against seconds: the first is the same on any machine, the second is what is felt."""
    spent = _spent(metrics)
    measure = metrics["measures"][0]
    by_tokens = [(label, c.tokens / n, quality) for label, quality, n, c in spent if c.tokens is not None]
    by_time = [(label, c.seconds / n, quality) for label, quality, n, c in spent]
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
    said = evidence.metrics["training"]
    found: list[Training] = []
    for stage, folders in evidence.trainings.items():
        logs = {run: read_jsonl(folder / "metrics.jsonl") for run, folder in folders.items()}
        first = next(iter(logs.values()))
        summaries = [learned(name, said[name]) for name in (training_name(stage, run) for run in logs) if name in said]
        samples = [s for run, folder in folders.items() for s in choose_samples(_completions(folder), run)]
        found.append(
            Training(
                name=stage,
                steps=max(map(len, logs.values())),
                summary=" ".join(summaries),
                plots=training_plots(stage, first) if len(logs) == 1 else overlaid_plots(stage, logs),
                samples=tuple(samples),
            )
        )
    return tuple(found)


def training_name(stage: str, run: str) -> str:
    """What a training stage is called in `metrics`, where there may be several runs."""
    return f"{stage} ({run})" if run else stage


def _completions(folder: Path) -> list[Any]:
    path = folder / "completions.jsonl"
    return read_jsonl(path) if path.is_file() else []


def _formats(metrics: Metrics) -> dict[str, dict[str, FormatCell]]:
    names = labels(metrics)
    return {
        names[run_name]: {paradigm: _format_cell(found) for paradigm, found in paradigms.items()}
        for run_name, paradigms in metrics["format"].items()
    }


def _format_cell(found: Mapping[str, Any]) -> FormatCell:
    return FormatCell(
        prompts=found["prompts"],
        well_formed=found["well_formed"],
        statuses=found.get("statuses", {}),
        samples=tuple(text[:MAX_SAMPLE_CHARS] for text in found.get("samples", []) if text),
    )


def _format_plot(formats: Mapping[str, Mapping[str, FormatCell]], paradigms: Sequence[str]) -> Plot | None:
    if not paradigms:
        return None
    values = {label: [_share(cells.get(paradigm)) for paradigm in paradigms] for label, cells in formats.items()}
    return figures.bars("well-formed", "share of well-formed answers", paradigms, values)


def _share(cell: FormatCell | None) -> float | None:
    return cell.well_formed / cell.prompts if cell and cell.prompts else None


def _answers(evidence: Evidence) -> tuple[AnswerRow, ...]:
    found: list[AnswerRow] = []
    for name, label in labels(evidence.metrics).items():
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
    measure, per_query = metrics["measures"][0], metrics["per_query"]
    pair = evidence.pair
    changes = {qid: new - old for qid, (old, new) in change(metrics, pair).items()} if pair else {}
    runs = {name: trec.read_run(evidence.folders[name] / "run.trec") for name in shown}
    asked = {name: _by_query(evidence.folders[name]) for name in pair or (decisive,)}
    pieces = {name: answers.texts(evidence.folders[name]) for name in asked}
    names = labels(metrics)
    cards: list[QueryCard] = []
    for qid in choose_queries({qid: row[measure] for qid, row in per_query[decisive].items()}, changes):
        try:
            example = evidence.store.example(qid)
        except LookupError:
            # Nothing was found for this query, so there is nothing to show of it; its 0 stands in every mean.
            continue
        orders = [trec_order(rankings.get(qid, {})) for rankings in runs.values()]
        values = [per_query[name].get(qid, {}).get(measure) for name in shown]
        given = [answer_cards(names[name], rows[qid], pieces[name]) for name, rows in asked.items() if rows.get(qid)]
        cards.append(query_card(example, orders, values, changes.get(qid), list(shown).index(decisive), given))
    return tuple(cards)


def _by_query(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in answers.read(folder):
        found[row["qid"]].append(row)
    return found
