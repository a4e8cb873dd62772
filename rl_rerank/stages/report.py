"""One self-contained HTML page about a run: what was measured, how training went, what single queries look like."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_rerank import trec
from rl_rerank.config import Config, EvaluateStage, GRPOStage, ReportStage, SFTStage
from rl_rerank.data import prepare
from rl_rerank.data.store import Store
from rl_rerank.evaluation.measures import trec_order
from rl_rerank.evaluation.report import figures
from rl_rerank.evaluation.report.figures import Plot
from rl_rerank.evaluation.report.page import AnswerRow, Cell, FormatCell, Page, SystemRow, Verdict, render
from rl_rerank.evaluation.report.queries import QueryCard, choose_queries, query_card
from rl_rerank.evaluation.report.training import Training, choose_samples, training_plots
from rl_rerank.evaluation.table import is_significant, labels, learned, queries
from rl_rerank.paths import read_jsonl, write_bytes, write_text

Metrics = Mapping[str, Any]
"""What an evaluate stage wrote to `metrics.json`."""

MAX_MALFORMED_SAMPLES = 3
MAX_SAMPLE_CHARS = 1500


def run(config: Config, name: str, stage: ReportStage) -> None:
    """Write `index.html` and its plots as PNG files."""
    metrics = _metrics(config, name)
    store = prepare(config.data, Path(config.run_dir) / "data")
    page = _page(config, stage, metrics, store)
    directory = Path(config.run_dir) / name
    write_text(directory / "index.html", render(page))
    for plot in page.plots:
        write_bytes(directory / f"{plot.name}.png", plot.light)


def _metrics(config: Config, name: str) -> Metrics:
    evaluations = [n for n, s in config.stages.items() if isinstance(s, EvaluateStage)]
    if not evaluations:
        raise ValueError(
            f"report stage {name!r}: the experiment has no evaluate stage, so there is nothing to report on"
        )
    path = Path(config.run_dir) / evaluations[-1] / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"report stage {name!r}: {path} does not exist; run the stage {evaluations[-1]!r} first"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _page(config: Config, stage: ReportStage, metrics: Metrics, store: Store) -> Page:
    pair = _main_pair(metrics)
    formats = _formats(metrics)
    paradigms = tuple(dict.fromkeys(paradigm for cells in formats.values() for paradigm in cells))
    measured = max(row["num_queries"] for row in metrics["rows"])
    return Page(
        title=stage.title or f"{config.experiment or Path(config.run_dir).name}: reranking report",
        subtitle=f"{config.data.source}, {measured} queries, depth {config.data.depth}, model {config.model.path}",
        measures=tuple(metrics["measures"]),
        systems=_systems(metrics),
        verdicts=tuple(_verdict(metrics, comparison) for comparison in metrics["comparisons"]),
        warnings=tuple(store.warnings),
        forest=_forest(metrics),
        trainings=_trainings(config, metrics, store),
        formats=formats,
        format_paradigms=paradigms,
        format_plot=_format_plot(formats, paradigms),
        answers=_answers(config, metrics),
        change_plot=_change_plot(metrics, pair),
        change_words=_change_words(metrics, pair),
        system_labels=tuple(labels(metrics).values()),
        decisive=list(labels(metrics)).index(_decisive(metrics, pair)),
        queries=_queries(config, metrics, pair, store),
        num_queries=measured,
        config=json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False),
        facts={
            **{f"{distribution}": version for distribution, version in metrics["provider"].items()},
            "collection": f"{config.data.source} {config.data.path or ''}".strip(),
            "collection fingerprint": store.fingerprint,
        },
    )


def _systems(metrics: Metrics) -> tuple[SystemRow, ...]:
    best = {m: max(row["mean"][m] for row in metrics["rows"]) for m in metrics["measures"]}
    many = len(metrics["rows"]) > 1
    return tuple(
        SystemRow(
            label=row["label"],
            cells=tuple(
                Cell(
                    mean=row["mean"][m],
                    interval=row["interval"].get(m),
                    is_best=many and row["mean"][m] == best[m],
                )
                for m in metrics["measures"]
            ),
            num_queries=row["num_queries"],
            num_missing=len(metrics["missing"][row["run"]]),
            malformed=row["malformed"],
            fallback=row["fallback"],
        )
        for row in metrics["rows"]
    )


def _verdict(metrics: Metrics, comparison: Mapping[str, Any]) -> Verdict:
    names = labels(metrics)
    return Verdict(
        system=names[comparison["system"]],
        baseline=names[comparison["baseline"]],
        measure=comparison["measure"],
        difference=comparison["difference"],
        interval=comparison["interval"],
        p_value=comparison["p_value"],
        p_value_t=comparison["p_value_t"],
        num_queries=queries(metrics, comparison),
        is_significant=is_significant(comparison),
    )


def _main_pair(metrics: Metrics) -> tuple[str, str] | None:
    """The system and the baseline of the query section: the first comparison, else the last and the first row."""
    if metrics["comparisons"]:
        return metrics["comparisons"][0]["system"], metrics["comparisons"][0]["baseline"]
    pair = metrics["rows"][-1]["run"], metrics["rows"][0]["run"]
    return pair if len(metrics["rows"]) > 1 and _change(metrics, pair) else None


def _decisive(metrics: Metrics, pair: tuple[str, str] | None) -> str:
    """The run whose queries and documents are shown."""
    return pair[0] if pair else metrics["rows"][-1]["run"]


def _change(metrics: Metrics, pair: tuple[str, str]) -> dict[str, tuple[float, float]]:
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
    values = list(_change(metrics, pair).values())
    return figures.changes(
        "changes", f"{measure} of each query, {baseline} to {system}", values, measure, baseline, system
    )


def _change_words(metrics: Metrics, pair: tuple[str, str] | None) -> str:
    if pair is None:
        return ""
    system, baseline = (labels(metrics)[run_name] for run_name in pair)
    values = _change(metrics, pair).values()
    won, lost = sum(new > old for old, new in values), sum(new < old for old, new in values)
    return f"{system} beats {baseline} on {won}, ties on {len(values) - won - lost} and loses on {lost}."


def _trainings(config: Config, metrics: Metrics, store: Store) -> tuple[Training, ...]:
    found: list[Training] = []
    for name, stage in config.stages.items():
        directory = Path(config.run_dir) / name
        if not isinstance(stage, (SFTStage, GRPOStage)) or not (directory / "metrics.jsonl").is_file():
            continue
        rows = read_jsonl(directory / "metrics.jsonl")
        completions = directory / "completions.jsonl"
        samples = read_jsonl(completions) if completions.is_file() else []
        found.append(
            Training(
                name=name,
                kind=stage.kind,
                steps=len(rows),
                summary=learned(name, metrics["training"][name]) if name in metrics["training"] else "",
                plots=training_plots(name, rows),
                samples=choose_samples(samples, lambda qid: store.example(qid).query),
            )
        )
    return tuple(found)


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


def _answers(config: Config, metrics: Metrics) -> tuple[AnswerRow, ...]:
    found: list[AnswerRow] = []
    for run_name, label in labels(metrics).items():
        path = Path(config.run_dir) / run_name / "rollouts.jsonl"
        rows = read_jsonl(path) if path.is_file() else []
        if rows:
            malformed = [row["text"] for row in rows if row["status"] != "ok" and row["text"]]
            found.append(
                AnswerRow(
                    label=label,
                    statuses=dict(Counter(row["status"] for row in rows).most_common()),
                    issues=dict(Counter(issue["kind"] for row in rows for issue in row["issues"]).most_common(6)),
                    samples=tuple(text[:MAX_SAMPLE_CHARS] for text in malformed[:MAX_MALFORMED_SAMPLES]),
                )
            )
    return tuple(found)


def _queries(config: Config, metrics: Metrics, pair: tuple[str, str] | None, store: Store) -> tuple[QueryCard, ...]:
    measure, per_query = metrics["measures"][0], metrics["per_query"]
    change = {qid: new - old for qid, (old, new) in _change(metrics, pair).items()} if pair else {}
    decisive = _decisive(metrics, pair)
    runs = {r: trec.read_run(Path(config.run_dir) / r / "run.trec") for r in per_query}
    cards: list[QueryCard] = []
    for qid in choose_queries({qid: row[measure] for qid, row in per_query[decisive].items()}, change):
        try:
            example = store.example(qid)
        except LookupError:
            # Nothing was found for this query, so there is nothing to show of it; its 0 stands in every mean.
            continue
        orders = {r: trec_order(rankings.get(qid, {})) for r, rankings in runs.items()}
        values = [per_query[r].get(qid, {}).get(measure) for r in runs]
        place = list(runs).index(decisive)
        cards.append(query_card(example, list(orders.values()), values, change.get(qid), place))
    return tuple(cards)
