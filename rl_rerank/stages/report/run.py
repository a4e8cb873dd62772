"""One self-contained HTML page about a run: what was measured, how training went, what single queries look like."""

import dataclasses
import json
from pathlib import Path

from rl_rerank.config import Config, ReportRuns
from rl_rerank.data import prepare
from rl_rerank.evaluation.records import FILE, Metrics
from rl_rerank.io.files import write_bytes, write_text
from rl_rerank.report.build import build_page
from rl_rerank.report.evidence import Evidence, trainings
from rl_rerank.report.page import Page, render
from rl_rerank.report.runs import gather, markdown
from rl_rerank.stages.report.spec import ReportStage


def run(config: Config, name: str, stage: ReportStage) -> None:
    """Write `index.html` and its plots as PNG files."""
    run_dir = Path(config.run_dir)
    metrics = _metrics(config, name, stage)
    evidence = Evidence(
        metrics=metrics,
        folders={row.run: run_dir / row.run for row in metrics.rows},
        trainings={stage: {"": folder} for stage, folder in trainings(config).items()},
        store=prepare(config.data, run_dir / "data"),
        pair=_main_pair(metrics),
        shown=metrics.labels,
        facts={"collection": f"{config.data.source} {config.data.path or ''}".strip()},
    )
    page = build_page(
        evidence,
        title=stage.title or f"{config.experiment or run_dir.name}: reranking report",
        subtitle=f"{config.data.source}, {metrics.num_queries} queries, depth {config.data.depth}, "
        f"model {config.model.path}",
        config=json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False),
    )
    _write(page, run_dir / name)


def report_runs(wanted: ReportRuns) -> Evidence:
    """Write `index.html`, its plots and `table.md` about several finished runs, and return what they are made of."""
    evidence = gather(wanted)
    page = build_page(
        evidence,
        title=wanted.title or f"{len(wanted.run_dirs)} runs compared",
        subtitle=", ".join(wanted.run_dirs),
        config=json.dumps(dataclasses.asdict(wanted), indent=2, ensure_ascii=False),
    )
    folder = Path(wanted.output)
    _write(page, folder)
    write_text(folder / "table.md", markdown(evidence))
    return evidence


def _write(page: Page, folder: Path) -> None:
    """Write `index.html` and its plots as PNG files."""
    write_text(folder / "index.html", render(page))
    for plot in page.plots:
        write_bytes(folder / f"{plot.name}.png", plot.light)


def _metrics(config: Config, name: str, stage: ReportStage) -> Metrics:
    evaluation = stage.evaluation(name, config)
    path = Path(config.run_dir) / evaluation / FILE
    if not path.is_file():
        raise FileNotFoundError(f"report stage {name!r}: {path} does not exist; run the stage {evaluation!r} first")
    return Metrics.read(path, "per_query")


def _main_pair(metrics: Metrics) -> tuple[str, str] | None:
    """The system and the baseline of the query section: the first comparison, else the last and the first row."""
    if metrics.comparisons:
        return metrics.comparisons[0].system, metrics.comparisons[0].baseline
    pair = metrics.rows[-1].run, metrics.rows[0].run
    return pair if len(metrics.rows) > 1 and metrics.change(pair) else None
