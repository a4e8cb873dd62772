"""docs/results.md from the runs of the study, and every query's values beside it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study_runs import COLLECTIONS, COMPARISONS, HOURS, MEASURES, RUNS, SYSTEMS, Run, System

from rl_rerank.evaluation.comparisons import adjusted
from rl_rerank.evaluation.seeds import interval_over_seeds, paired_test_over_seeds
from rl_rerank.evaluation.statistics import PairedTest, paired_test
from rl_rerank.io.files import read_jsonl, write_jsonl, write_text
from rl_rerank.io.markdown import cell

SECONDS = "seconds.json"
"""In a run folder: of each stage, the seconds of processors and of the clock, killed starts included."""
MAIN = "nDCG@10"
NOT_RUN = "not run"
DATA = "experiments/study/per_query.jsonl"
"""In the folder of the documentation."""
Values = Mapping[str, Mapping[str, float]]
"""qid -> measure -> value."""


def folder(run: Run, runs: Path) -> Path | None:
    """The run folder that is measured on test queries; None if a peer's loss has not been chosen yet."""
    if not run.losses:
        return runs / run.name
    chosen = runs / run.name / "chosen.json"
    return runs / run.name / json.loads(chosen.read_text(encoding="utf-8"))["loss"] if chosen.is_file() else None


@dataclass(frozen=True)
class Measured:
    """A run that has been measured on the test queries."""

    day: str
    cpu_hours: float
    loss: str
    """The chosen one of a peer with several."""
    seconds: Mapping[str, float]
    """Stage -> seconds of processors."""
    values: Mapping[str, Values]
    """System -> its per-query values."""


def measured(run: Run, runs: Path, cpu_hours: float) -> Measured | None:
    """Read a run folder; None if it is missing or unfinished."""
    where = folder(run, runs)
    path = None if where is None else where / "evaluate/metrics.json"
    if where is None or path is None or not path.is_file():
        return None
    stages = json.loads(path.read_text(encoding="utf-8"))["per_query"]
    day = time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))
    of = {system.key: stages[system.stage] for system in SYSTEMS if run.name in system.runs}
    seconds = {stage: spent["processors"] for stage, spent in taken(where).items()}
    return Measured(day, round(cpu_hours, 2), where.name if run.losses else "", seconds, of)


def taken(folder: Path) -> dict[str, dict[str, float]]:
    """Stage -> the seconds of `processors` and of the `clock` that it took in a run folder."""
    path = folder / SECONDS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(runs: Path, docs: Path, cpu_hours: Mapping[str, float]) -> None:
    """Write the page and the values of every query.

    A run whose folder is missing or unfinished keeps what the values beside the page hold of it: the study takes days,
    and its models need not be kept for so long.

    Args:
        cpu_hours: run -> hours of processors that it took.
    """
    data = docs / DATA
    known = recorded(docs)
    known |= {run.name: found for run in RUNS if (found := measured(run, runs, cpu_hours[run.name])) is not None}
    write_text(docs / "results.md", "\n".join([*page(known, cpu_hours), ""]))
    data.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(data, per_query(known))


def page(known: Mapping[str, Measured], cpu_hours: Mapping[str, float]) -> Iterator[str]:
    """The lines of the page.

    Args:
        known: run -> what was measured. cpu_hours: run -> hours of processors, also of unfinished runs.
    """
    found = {s.key: [known[run].values[s.key] for run in s.runs if run in known] for s in SYSTEMS}
    yield from (
        "# Results",
        "",
        "SmolLM2-135M-Instruct as a reranker of BM25's first 20 candidates, trained in several ways, and peers trained",
        "on the same queries for the same CPU time. `python benchmarks/study.py RUNS --page` writes this page from the",
        "runs of `python benchmarks/study.py RUNS --data FOLDER`.",
        "",
        "Models are trained on the union of the training queries of wikiqa, trecqa, scifact, nfcorpus and msmarco-fg;",
        "rows `wikiqa alone` on those of wikiqa. Settings, losses of peers and weights of fusions are chosen on",
        "development queries. Test queries are ranked once, candidates shown in a seeded random order. A row of",
        "several seeds has their mean. No row's AP and RR see beyond the 20 candidates.",
        "",
        "## nDCG@10",
        "",
        f"| system | {' | '.join(COLLECTIONS)} | mean | seeds |",
        f"| --- |{' ---: |' * (len(COLLECTIONS) + 2)}",
    )
    for system in SYSTEMS:
        yield _row(system, found[system.key])
    yield from ("", "The mean is that of the collections.", "", "## AP and RR, where the literature has them", "")
    more = [(name, measure) for name, measures in MEASURES.items() for measure in measures[1:]]
    yield f"| system | {' | '.join(f'{name} {measure}' for name, measure in more)} |"
    yield f"| --- |{' ---: |' * len(more)}"
    for system in SYSTEMS:
        if has := found[system.key]:
            cells = [_cell(has, name, measure) for name, measure in more]
            yield f"| {system.label} | {' | '.join(cells)} |"
    yield from ("", *_comparisons(found), "", *_runs(known, cpu_hours))


def _row(system: System, found: Sequence[Values]) -> str:
    if not found:
        cells = [NOT_RUN if name == "wikiqa" or not system.is_wikiqa else "" for name in COLLECTIONS]
        return f"| {system.label} | {' | '.join(cells)} | | 0 of {len(system.runs)} |"
    means = [mean for name in COLLECTIONS if (mean := _mean(found, name, MAIN)) is not None]
    overall = f"{statistics.fmean(means):.3f}" if len(means) == len(COLLECTIONS) else ""
    cells = [_cell(found, name, MAIN) for name in COLLECTIONS]
    return f"| {system.label} | {' | '.join(cells)} | {overall} | {len(found)} of {len(system.runs)} |"


def of_collection(run: Values, name: str) -> list[str]:
    """The queries of a collection, in order."""
    return sorted(qid for qid in run if qid.partition(":")[0] == name)


def _mean(found: Sequence[Values], name: str, measure: str) -> float | None:
    qids = of_collection(found[0], name)
    return statistics.fmean(run[qid][measure] for run in found for qid in qids) if qids else None


def _cell(found: Sequence[Values], name: str, measure: str) -> str:
    mean = _mean(found, name, measure)
    if mean is None:
        return ""
    qids = of_collection(found[0], name)
    low, high = interval_over_seeds([[run[qid][measure] for qid in qids] for run in found], seed=1)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _comparisons(found: Mapping[str, Sequence[Values]]) -> Iterator[str]:
    """Tests on nDCG@10 over the queries that both systems have, adjusted by Holm over all that could be made."""
    labels = {system.key: system.label for system in SYSTEMS}
    pairs = [pair for pair in COMPARISONS if all(found[key] for key in pair)]
    tests = [_test(found[ours], found[theirs]) for ours, theirs in pairs]
    yield from (
        "## Comparisons",
        "",
        "Paired randomisation tests on nDCG@10 over all test queries that both systems have, and over seeds where",
        f"there are several; p adjusted by Holm's method over the {len(pairs)} comparisons that could be made, of "
        f"{len(COMPARISONS)}.",
        "",
        "| system | baseline | difference | 95% interval | p (Holm) | queries |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    )
    made = {(one.system, one.baseline): one for one in adjusted(pairs, MAIN, [test for test, _ in tests])}
    counts = dict(zip(pairs, (count for _, count in tests), strict=True))
    for pair in COMPARISONS:
        named = f"| {labels[pair[0]]} | {labels[pair[1]]} |"
        if pair not in made:
            yield f"{named} {NOT_RUN} | | | |"
            continue
        one = made[pair]
        low, high = one.interval
        p = "< .001" if one.p_value_holm < 0.001 else f"{one.p_value_holm:.3f}"
        yield f"{named} {one.difference:+.3f} | [{low:+.3f}, {high:+.3f}] | {p} | {counts[pair]} |"


def _test(ours: Sequence[Values], theirs: Sequence[Values]) -> tuple[PairedTest, int]:
    qids = sorted(ours[0].keys() & theirs[0].keys())
    one, other = ([[run[qid][MAIN] for qid in qids] for run in runs] for runs in (ours, theirs))
    if len(one) == len(other) == 1:
        return paired_test(one[0], other[0], seed=1), len(qids)
    return paired_test_over_seeds(one, other, seed=1), len(qids)


def _runs(known: Mapping[str, Measured], cpu_hours: Mapping[str, float]) -> Iterator[str]:
    """The command and the CPU time of every run."""
    hours = {run.name: known[run.name].cpu_hours if run.name in known else cpu_hours[run.name] for run in RUNS}
    yield from (
        "## Runs",
        "",
        f"{sum(hours.values()):.1f} CPU hours in all, with starts that were interrupted but not killed; the "
        f"study stops at {HOURS:g} hours on the clock.",
        "A peer trains with each of its losses for the CPU time of the stage in the last column.",
        "",
        "| run | command | day | CPU hours | peer of |",
        "| --- | --- | --- | ---: | --- |",
    )
    for run in RUNS:
        command = f"`python benchmarks/study.py RUNS --data FOLDER --only {run.name}`"
        peer_of = f"{run.pace[0]}, {run.pace[1]}" if run.peer else ""
        if (one := known.get(run.name)) is None:
            state = f"{NOT_RUN} to its end" if hours[run.name] else NOT_RUN
            yield f"| {run.name} | {command} | | {state} | {peer_of} |"
        else:
            note = f", loss {cell(one.loss)}" if one.loss else ""
            yield f"| {run.name}{note} | {command} | {cell(one.day)} | {one.cpu_hours:.2f} | {peer_of} |"
    yield from (
        "",
        "Every query's values are in `docs/experiments/study/per_query.jsonl`, rounded to four digits: first the",
        "queries of each collection, then the runs, then for each system, run, collection and measure the values in",
        "the queries' order.",
    )


def per_query(known: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """The rows of per_query.jsonl."""
    every = [values for run in known.values() for values in run.values.values()]
    qids = {name: sorted({qid for run in every for qid in of_collection(run, name)}) for name in COLLECTIONS}
    rows: list[dict[str, Any]] = [{"collection": name, "qids": of} for name, of in qids.items() if of]
    for run, one in known.items():
        rows.append({"run": run, **{key: value for key, value in vars(one).items() if key != "values"}})
    for run, one in known.items():
        for key, values in one.values.items():
            for name in COLLECTIONS:
                if not (own := of_collection(values, name)):
                    continue
                if own != qids[name]:
                    raise ValueError(f"{key} of {run}: its queries of {name} are not those of the other systems")
                for measure in MEASURES.get(name, (MAIN,)):
                    of = [round(values[qid][measure], 4) for qid in own]
                    rows.append({"system": key, "run": run, "collection": name, "measure": measure, "values": of})
    return rows


def recorded(docs: Path) -> dict[str, Measured]:
    """Run -> what per_query.jsonl holds of it."""
    rows = read_jsonl(docs / DATA) if (docs / DATA).is_file() else []
    qids: dict[str, list[str]] = {}
    found: dict[str, Measured] = {}
    values: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in rows:
        if "qids" in row:
            qids[row["collection"]] = row["qids"]
        elif "day" in row:
            of_run = values[row["run"]] = {}
            found[row["run"]] = Measured(row["day"], row["cpu_hours"], row["loss"], row["seconds"], of_run)
        else:
            of = values[row["run"]].setdefault(row["system"], {})
            for qid, value in zip(qids[row["collection"]], row["values"], strict=True):
                of.setdefault(qid, {})[row["measure"]] = value
    return {name: one for name, one in found.items() if name in {run.name for run in RUNS}}
