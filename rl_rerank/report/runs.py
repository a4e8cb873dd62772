"""Several finished runs as evidence for one report: systems in both are tested, and regressions flagged."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rl_rerank.config import Config, ReportRuns, build
from rl_rerank.data.store import Store
from rl_rerank.evaluation import protocol
from rl_rerank.evaluation.comparisons import adjusted
from rl_rerank.evaluation.enough import too_few
from rl_rerank.evaluation.measures import lower_is_better
from rl_rerank.evaluation.records import FILE, Comparison, Metrics, OverSeeds, RunRow, paired
from rl_rerank.evaluation.statistics import PairedTest, paired_test
from rl_rerank.evaluation.table import p_values, table
from rl_rerank.io.markdown import plain
from rl_rerank.report.build import training_name
from rl_rerank.report.evidence import Evidence, LostQuery, Regression, trainings

T = TypeVar("T")

NUM_LOST = 5
"""Queries that a regression names."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run folder whose evaluation is there."""

    name: str
    folder: Path
    config: Config
    metrics: Metrics

    def system(self, stage: str) -> str:
        """The name of a rerank stage of this run among several runs."""
        return f"{self.name}/{stage}"


@dataclass(frozen=True, slots=True)
class _Pair:
    """One system in two runs, by its rows."""

    first: FinishedRun
    then: FinishedRun
    before: RunRow
    after: RunRow

    @property
    def baseline(self) -> str:
        """The first run's system."""
        return self.first.system(self.before.run)

    @property
    def system(self) -> str:
        """The later run's."""
        return self.then.system(self.after.run)

    @property
    def is_once(self) -> bool:
        """Whether one row stands for both: no model was asked, and every value is the same."""
        made_under = self.first.metrics.protocols[self.before.run]
        return made_under is not None and not made_under.paradigm and self._has_same_values

    @property
    def is_same(self) -> bool:
        """Whether both are one system, so that there is nothing to test."""
        is_untrained = self.before.role == self.after.role == "untrained"
        return self.is_once or (is_untrained and self._has_same_values)

    @property
    def _has_same_values(self) -> bool:
        return self.first.metrics.per_query[self.before.run] == self.then.metrics.per_query[self.after.run]

    @property
    def title(self) -> str:
        """The system with both runs' names."""
        return f"{self.before.label}, {self.then.name} against {self.first.name}"

    @property
    def too_few(self) -> str:
        """What a page says instead of comparing the two; empty if they share enough queries.

        Raises:
            ValueError: if they share none.
        """
        first, then = self.first.metrics.per_query[self.before.run], self.then.metrics.per_query[self.after.run]
        if not first.keys() & then.keys():
            raise ValueError(f"run_dirs: {self.first.name} and {self.then.name} have no query in common")
        return too_few(len(first.keys() & then.keys()))

    def values(self, measure: str) -> dict[str, tuple[float, float]]:
        """qid -> (before, after)."""
        before, after = self.first.metrics.per_query[self.before.run], self.then.metrics.per_query[self.after.run]
        return paired(before, after, measure)

    def test(self, measure: str, seed: int) -> PairedTest:
        """The later run's system against the first one's."""
        values = list(self.values(measure).values())
        return paired_test([after for _, after in values], [before for before, _ in values], seed)


def gather(wanted: ReportRuns) -> Evidence:
    """The evidence of several runs. Every other run is tested against the first one.

    A system is the same in two runs if its label is, or else its stage's name.

    Raises:
        FileNotFoundError: for a folder that is not there.
        ValueError: for one that holds no finished run; for runs that were measured differently or, without `force`,
            made under different protocols.
    """
    folders = [Path(folder) for folder in wanted.run_dirs]
    is_told_apart = len({folder.name for folder in folders}) == len(folders)
    runs = [_read(folder, folder.name if is_told_apart else str(folder)) for folder in folders]
    _check_measures(runs)
    pairs = [pair for run in runs[1:] for pair in _pairs(runs[0], run)]
    forced = _protocol_differences(runs, pairs, wanted)
    several = [pair for pair in pairs if not pair.is_same]
    tested = _tested([pair for pair in several if not pair.too_few], runs[0].metrics.measures, wanted.seed)
    stores = {run.name: Store(run.folder / "data") for run in runs}
    regressions = [_regression(pair, tests, stores[pair.first.name]) for pair, tests in tested]
    metrics = _merged(runs, pairs, forced, [tests[0] for _, tests in tested])
    worst = min(reversed(tested), key=lambda item: _loss(item[1][0]), default=None)
    return Evidence(
        metrics=metrics,
        folders={run.system(row.run): run.folder / row.run for run in runs for row in run.metrics.rows},
        trainings=_trainings(runs),
        store=stores[runs[0].name],
        pair=None if worst is None else (worst[0].system, worst[0].baseline),
        shown=metrics.labels if worst is None else _columns(runs[0], worst[0]),
        regressions=tuple(r for r in regressions if r is not None),
        by_measure={pair.title: tests for pair, tests in tested},
        untested=tuple(f"{pair.title}: {pair.too_few}." for pair in several if pair.too_few),
        facts={
            r.name: f"{r.folder}: experiment {r.config.experiment}, seed {r.config.seed}, model {r.config.model.path}"
            for r in runs
        },
    )


def markdown(evidence: Evidence) -> str:
    """The table of all runs, for papers and pull requests: regressions first."""
    flags = [
        f"**Regression: {plain(r.system)} is worse in {plain(r.run)} than in {plain(r.baseline)}**: "
        + ", ".join(f"{test.difference:+.4f} {m} ({p_values(test)})" for m, test in r.measures.items())
        + f". Lost most {r.measure}: "
        + ", ".join(f"{plain(q.query)} ({plain(q.qid)}) {q.before:.3f} to {q.after:.3f}" for q in r.lost)
        + "."
        for r in evidence.regressions
    ]
    flags += map(plain, evidence.untested)
    return "".join(f"{flag}\n\n" for flag in flags) + table(evidence.metrics, is_page=True)


def _read(folder: Path, name: str) -> FinishedRun:
    if not folder.is_dir():
        raise FileNotFoundError(f"run_dirs: there is no folder {str(folder)!r}")
    if not (folder / "config.json").is_file():
        raise ValueError(f"run_dirs: {str(folder)!r} is no run folder, because it holds no config.json")
    try:
        config = build(Config, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except json.JSONDecodeError as e:
        raise ValueError(f"{folder / 'config.json'} is not JSON ({e.msg})") from None
    stages = [n for n, s in config.stages.items() if s.leaves == "measures"]
    if not stages:
        raise ValueError(f"run_dirs: the run in {str(folder)!r} has no evaluate stage, so nothing was measured")
    path = folder / stages[-1] / FILE
    if not path.is_file():
        raise ValueError(
            f"run_dirs: the run in {str(folder)!r} is not finished: {path} does not exist; go on with it, or run its "
            f"stage {stages[-1]!r}"
        )
    metrics = Metrics.read(path, "per_query", "protocols")
    for row in metrics.rows:
        if not (run := folder / row.run / "run.trec").is_file():
            raise ValueError(f"run_dirs: {path} measures {run}, which is no longer there")
    # Where the run lies now, not where it was made.
    config.run_dir = str(folder)
    protocols = {row.run: protocol.read(folder / row.run) for row in metrics.rows}
    return FinishedRun(name, folder, config, replace(metrics, protocols=protocols))


def _check_measures(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.metrics.measures != first.metrics.measures:
            raise ValueError(
                f"run_dirs: {run.name} was measured by {', '.join(run.metrics.measures)} and {first.name} by "
                f"{', '.join(first.metrics.measures)}; evaluate both by the same measures"
            )


def _pairs(first: FinishedRun, then: FinishedRun) -> list[_Pair]:
    """The systems that both runs have, in the order of the first one's table."""
    by_label, by_stage = {row.label: row for row in then.metrics.rows}, {row.run: row for row in then.metrics.rows}
    found = [(row, by_label.get(row.label) or by_stage.get(row.run)) for row in first.metrics.rows]
    return [_Pair(first, then, row, other) for row, other in found if other is not None]


def _protocol_differences(runs: Sequence[FinishedRun], pairs: Sequence[_Pair], wanted: ReportRuns) -> list[str]:
    """One sentence for each run whose protocol differs from the first one's. Refused without `force`."""
    found: list[str] = []
    first = runs[0]
    for run in runs[1:]:
        reasons: dict[str, list[str]] = {}
        one, other = first.metrics, run.metrics
        # Runs that share no system stand in one table all the same.
        rows = [(p.before, p.after) for p in pairs if p.then is run] or [(one.rows[0], other.rows[0])]
        for before, after in rows:
            for reason in protocol.differences(one.protocols[before.run], other.protocols[after.run]):
                reasons.setdefault(reason, []).append(before.label)
        if reasons:
            said = "; ".join(f"{reason} ({', '.join(labels)})" for reason, labels in reasons.items())
            found.append(f"{first.name} and {run.name} were made under different protocols: {said}")
    if found and not wanted.force:
        raise ValueError(
            f"run_dirs: {'. '.join(found)}. Make the runs under one protocol, or compare all the same with force=true"
        )
    return found


def _tested(pairs: Sequence[_Pair], measures: Sequence[str], seed: int) -> list[tuple[_Pair, tuple[Comparison, ...]]]:
    """Each pair with its test on every measure; p-values are adjusted over the pairs of a measure."""
    names = [(pair.system, pair.baseline) for pair in pairs]
    by_measure = [adjusted(names, measure, [pair.test(measure, seed) for pair in pairs]) for measure in measures]
    return list(zip(pairs, zip(*by_measure, strict=True), strict=True))


def _regression(pair: _Pair, tests: Sequence[Comparison], store: Store) -> Regression | None:
    worse = {test.measure: test for test in tests if test.is_significant and not test.is_gain}
    if not worse:
        return None
    measure = next(iter(worse))
    values, sign = pair.values(measure), -1 if lower_is_better(measure) else 1
    lost = sorted((sign * (after - before), qid) for qid, (before, after) in values.items() if after != before)
    lost = [(change, qid) for change, qid in lost if change < 0][:NUM_LOST]
    queries = tuple(LostQuery(qid, _query(store, qid), *values[qid]) for _, qid in lost)
    return Regression(pair.before.label, pair.then.name, pair.first.name, worse, queries)


def _query(store: Store, qid: str) -> str:
    try:
        return store.example(qid).query
    except LookupError:
        return ""


def _merged(
    runs: Sequence[FinishedRun], pairs: Sequence[_Pair], forced: Sequence[str], comparisons: Sequence[Comparison]
) -> Metrics:
    """The runs' metrics as one."""
    over = [(run, row) for run in runs for row in run.metrics.over_seeds.rows]
    # The runs were measured on the same queries and candidates, so the first one's references are those of all.
    return replace(
        runs[0].metrics,
        rows=_rows(runs, pairs),
        over_seeds=OverSeeds(rows=[replace(row, label=f"{row.label} ({run.name})") for run, row in over]),
        per_query=_by_system(runs, lambda metrics: metrics.per_query),
        missing=_by_system(runs, lambda metrics: metrics.missing),
        format=_by_system(runs, lambda metrics: metrics.format),
        protocols=_by_system(runs, lambda metrics: metrics.protocols),
        weights=_by_system(runs, lambda metrics: metrics.weights),
        forced=forced,
        comparisons=comparisons,
        training={training_name(n, run.name): trend for run in runs for n, trend in run.metrics.training.items()},
    )


def _rows(runs: Sequence[FinishedRun], pairs: Sequence[_Pair]) -> list[RunRow]:
    """The rows of all runs, each system of the first run followed by its counterparts."""
    counterparts = {pair.system: pair.baseline for pair in pairs}
    once = {pair.system: pair.baseline for pair in pairs if pair.is_once}
    rows: dict[str, RunRow] = {}
    for run in runs:
        for row in run.metrics.rows:
            name = run.system(row.run)
            label = row.label if name in once.values() else f"{row.label} ({run.name})"
            rows[name] = replace(row, run=name, label=label)
    places = {name: place for place, name in enumerate(rows)}
    ordered = sorted(rows, key=lambda name: places[counterparts.get(name, name)])
    return [rows[name] for name in ordered if name not in once]


def _by_system(runs: Sequence[FinishedRun], part: Callable[[Metrics], Mapping[str, T]]) -> dict[str, T]:
    return {run.system(stage): value for run in runs for stage, value in part(run.metrics).items()}


def _trainings(runs: Sequence[FinishedRun]) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for run in runs:
        for stage, folder in trainings(run.config).items():
            found.setdefault(stage, {})[run.name] = folder
    return found


def _loss(test: Comparison) -> float:
    """The size of a significant difference, negative for a loss, or 0."""
    return 0.0 if not test.is_significant else abs(test.difference) if test.is_gain else -abs(test.difference)


def _columns(first: FinishedRun, pair: _Pair) -> dict[str, str]:
    """The systems beside a query -> the names of their columns: the first row, and the pair by its runs."""
    top = first.metrics.rows[0]
    return {first.system(top.run): top.label, pair.baseline: pair.first.name, pair.system: pair.then.name}
