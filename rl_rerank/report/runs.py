"""Several finished runs as one body of evidence: what both have is tested, and what got worse is flagged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_rerank.config import Config, ReportRuns, build
from rl_rerank.data.store import Store
from rl_rerank.evaluation import protocol
from rl_rerank.evaluation.measures import lower_is_better
from rl_rerank.evaluation.protocol import Protocol
from rl_rerank.evaluation.statistics import holm, paired_test
from rl_rerank.evaluation.table import is_significant, labels, p_value, table
from rl_rerank.report.build import training_name
from rl_rerank.report.evidence import Evidence, LostQuery, Metrics, Regression, trainings

if TYPE_CHECKING:
    pass

NUM_LOST = 5
"""Queries that a regression names."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run folder whose evaluation is there."""

    name: str
    folder: Path
    config: Config
    metrics: Metrics
    protocols: Mapping[str, Protocol | None]
    """Rerank stage -> what it was made under."""

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The rows of its table."""
        return self.metrics["rows"]

    def system(self, stage: str) -> str:
        """What a rerank stage of this run is called among several runs."""
        return f"{self.name}/{stage}"


@dataclass(frozen=True, slots=True)
class _Pair:
    """One system in two runs, by its rows."""

    label: str
    first: FinishedRun
    then: FinishedRun
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def baseline(self) -> str:
        """The first run's system."""
        return self.first.system(self.before["run"])

    @property
    def system(self) -> str:
        """The later run's."""
        return self.then.system(self.after["run"])

    @property
    def words(self) -> str:
        """What is tested."""
        return f"{self.label}, {self.then.name} against {self.first.name}"

    def values(self, measure: str) -> dict[str, tuple[float, float]]:
        """qid -> (before, after), of the queries that both have."""
        before = self.first.metrics["per_query"][self.before["run"]]
        after = self.then.metrics["per_query"][self.after["run"]]
        return {qid: (before[qid][measure], after[qid][measure]) for qid in before if qid in after}


def gather(wanted: ReportRuns) -> Evidence:
    """What the runs say together. The first one is what every other one is tested against.

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
    tested = _adjusted([(pair, _tests(pair, wanted.seed)) for pair in pairs if not _is_once(pair)])
    stores = {run.name: Store(run.folder / "data") for run in runs}
    regressions = [_regression(pair, tests, stores[pair.first.name]) for pair, tests in tested]
    metrics = _merged(runs, pairs, forced, [tests[0] for _, tests in tested])
    worst = min(reversed(tested), key=lambda item: _loss(item[1]), default=None)
    return Evidence(
        metrics=metrics,
        folders={run.system(row["run"]): run.folder / row["run"] for run in runs for row in run.rows},
        trainings=_trainings(runs),
        store=stores[runs[0].name],
        pair=None if worst is None else (worst[0].system, worst[0].baseline),
        shown=labels(metrics) if worst is None else _columns(runs[0], worst[0]),
        regressions=tuple(r for r in regressions if r is not None),
        by_measure=tuple({**test, "label": pair.words} for pair, tests in tested for test in tests),
        facts={run.name: _words(run) for run in runs},
    )


def markdown(evidence: Evidence) -> str:
    """The table of all runs, for papers and pull requests: regressions first."""
    flags = [
        f"**Regression: {_plain(r.system)} is worse in {_plain(r.run)} than in {_plain(r.baseline)}**: "
        + ", ".join(f"{test['difference']:+.4f} {m} ({p_value(test['p_value'])})" for m, test in r.measures.items())
        + f". Lost most {r.measure}: "
        + ", ".join(f"{_plain(q.query)} ({q.qid}) {q.before:.3f} to {q.after:.3f}" for q in r.lost)
        + "."
        for r in evidence.regressions
    ]
    return "".join(f"{flag}\n\n" for flag in flags) + table(evidence.metrics)


def _read(folder: Path, name: str) -> FinishedRun:
    if not folder.is_dir():
        raise FileNotFoundError(f"run_dirs: there is no folder {str(folder)!r}")
    if not (folder / "config.json").is_file():
        raise ValueError(f"run_dirs: {str(folder)!r} is no run folder, because it holds no config.json")
    config = build(Config, _json(folder / "config.json"))
    stages = [n for n, s in config.stages.items() if s.leaves == "measures"]
    if not stages:
        raise ValueError(f"run_dirs: the run in {str(folder)!r} has no evaluate stage, so nothing was measured")
    path = folder / stages[-1] / "metrics.json"
    if not path.is_file():
        raise ValueError(
            f"run_dirs: the run in {str(folder)!r} is not finished: {path} does not exist; go on with it, or run its "
            f"stage {stages[-1]!r}"
        )
    metrics = _json(path)
    if "protocols" not in metrics:
        raise ValueError(
            f"run_dirs: {path} does not say what its rows were made under; run the stage {stages[-1]!r} of "
            f"{str(folder)!r} again"
        )
    for row in metrics["rows"]:
        if not (run := folder / row["run"] / "run.trec").is_file():
            raise ValueError(f"run_dirs: {path} measures {run}, which is no longer there")
    protocols = {row["run"]: protocol.read(folder / row["run"]) for row in metrics["rows"]}
    # Where the run lies now, not where it was made.
    config.run_dir = str(folder)
    return FinishedRun(name, folder, config, metrics, protocols)


def _words(run: FinishedRun) -> str:
    config = run.config
    return f"{run.folder}: experiment {config.experiment}, seed {config.seed}, model {config.model.path}"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is not JSON ({e.msg})") from None


def _check_measures(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.metrics["measures"] != first.metrics["measures"]:
            raise ValueError(
                f"run_dirs: {run.name} was measured by {', '.join(run.metrics['measures'])} and {first.name} by "
                f"{', '.join(first.metrics['measures'])}; evaluate both by the same measures"
            )


def _pairs(first: FinishedRun, then: FinishedRun) -> list[_Pair]:
    """The systems that both runs have, in the order of the first one's table."""
    by_label, by_stage = ({row[key]: row for row in then.rows} for key in ("label", "run"))
    found = [(row, by_label.get(row["label"]) or by_stage.get(row["run"])) for row in first.rows]
    return [_Pair(row["label"], first, then, row, other) for row, other in found if other is not None]


def _protocol_differences(runs: Sequence[FinishedRun], pairs: Sequence[_Pair], wanted: ReportRuns) -> list[str]:
    """What is compared although it should not be, a sentence for two runs. Refused without `force`."""
    found: list[str] = []
    first = runs[0]
    for run in runs[1:]:
        reasons: dict[str, list[str]] = {}
        rows = [(p.label, p.before["run"], p.after["run"]) for p in pairs if p.then is run]
        # Runs that share no system stand in one table all the same.
        for label, before, after in rows or [(first.rows[0]["label"], first.rows[0]["run"], run.rows[0]["run"])]:
            for reason in protocol.differences(first.protocols[before], run.protocols[after]):
                reasons.setdefault(reason, []).append(label)
        if reasons:
            said = "; ".join(f"{reason} ({', '.join(labels)})" for reason, labels in reasons.items())
            found.append(f"{first.name} and {run.name} were made under different protocols: {said}")
    if found and not wanted.force:
        raise ValueError(
            f"run_dirs: {'. '.join(found)}. Make the runs under one protocol, or compare all the same with force=true"
        )
    return found


def _tests(pair: _Pair, seed: int) -> list[dict[str, Any]]:
    """The later run's system against the first one's, on every measure."""
    tests: list[dict[str, Any]] = []
    for measure in pair.first.metrics["measures"]:
        values = list(pair.values(measure).values())
        if not values:
            raise ValueError(f"run_dirs: {pair.first.name} and {pair.then.name} have no query in common")
        test = paired_test([after for _, after in values], [before for before, _ in values], seed)
        tests.append({"system": pair.system, "baseline": pair.baseline, "measure": measure, **test._asdict()})
    return tests


def _adjusted(tested: Sequence[tuple[_Pair, list[dict[str, Any]]]]) -> list[tuple[_Pair, list[dict[str, Any]]]]:
    """The tests with p-values by Holm's method, over the systems of a measure."""
    by_measure = [holm([test["p_value"] for test in tests]) for tests in zip(*(t for _, t in tested), strict=True)]
    return [
        (pair, [{**test, "p_value_holm": ps[number]} for test, ps in zip(tests, by_measure, strict=True)])
        for number, (pair, tests) in enumerate(tested)
    ]


def _regression(pair: _Pair, tests: Sequence[Mapping[str, Any]], store: Store) -> Regression | None:
    worse = {test["measure"]: test for test in tests if is_significant(test) and not _is_gain(test)}
    if not worse:
        return None
    measure = next(iter(worse))
    values, sign = pair.values(measure), -1 if lower_is_better(measure) else 1
    lost = sorted((sign * (after - before), qid) for qid, (before, after) in values.items() if after != before)
    lost = [(change, qid) for change, qid in lost if change < 0][:NUM_LOST]
    queries = tuple(LostQuery(qid, _query(store, qid), *values[qid]) for _, qid in lost)
    return Regression(pair.label, pair.then.name, pair.first.name, worse, queries)


def _query(store: Store, qid: str) -> str:
    try:
        return store.example(qid).query
    except LookupError:
        return ""


def _is_once(pair: _Pair) -> bool:
    """Whether the system need not be told twice: no model was asked, and every value is the same."""
    asked = pair.first.protocols[pair.before["run"]]
    is_first_stage = asked is not None and not asked.paradigm
    before = pair.first.metrics["per_query"][pair.before["run"]]
    return is_first_stage and before == pair.then.metrics["per_query"][pair.after["run"]]


def _merged(
    runs: Sequence[FinishedRun],
    pairs: Sequence[_Pair],
    forced: Sequence[str],
    comparisons: Sequence[Mapping[str, Any]],
) -> Metrics:
    """The runs' metrics as one, systems of the same name beside each other."""
    once = {pair.system: pair.baseline for pair in pairs if _is_once(pair)}
    counterparts = {pair.system: pair.before["run"] for pair in pairs}
    order = [row["run"] for row in runs[0].rows]
    rows: list[tuple[tuple[int, int], dict[str, Any]]] = []
    for number, run in enumerate(runs):
        for row in run.rows:
            name = run.system(row["run"])
            if name in once:
                continue
            beside = row["run"] if run is runs[0] else counterparts.get(name)
            place = order.index(beside) if beside in order else len(order)
            label = row["label"] if name in once.values() else f"{row['label']} ({run.name})"
            rows.append(((place, number), {**row, "run": name, "label": label}))
    ordered = [row for _, row in sorted(rows, key=lambda item: item[0])]
    names = [row["run"] for row in ordered]

    def together(key: str) -> dict[str, Any]:
        values = {run.system(stage): value for run in runs for stage, value in run.metrics[key].items()}
        return {name: values[name] for name in names if name in values}

    made_under = {run.system(stage): p for run in runs for stage, p in run.protocols.items()}
    return {
        "provider": runs[0].metrics["provider"],
        "measures": runs[0].metrics["measures"],
        "rows": ordered,
        # The runs were measured on the same queries and candidates, so the first one's are those of all.
        "references": runs[0].metrics["references"],
        "over_seeds": {
            "rows": [
                {**row, "label": f"{row['label']} ({run.name})"}
                for run in runs
                for row in run.metrics["over_seeds"]["rows"]
            ],
            "comparisons": [],
        },
        "per_query": together("per_query"),
        "missing": together("missing"),
        "format": together("format"),
        "protocols": {name: (p := made_under[name]) and asdict(p) for name in names},
        "forced": list(forced),
        "comparisons": list(comparisons),
        "training": {
            training_name(stage, run.name): said for run in runs for stage, said in run.metrics["training"].items()
        },
    }


def _trainings(runs: Sequence[FinishedRun]) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for run in runs:
        for stage, folder in trainings(run.config).items():
            found.setdefault(stage, {})[run.name] = folder
    return found


def _is_gain(test: Mapping[str, Any]) -> bool:
    return (test["difference"] > 0) != lower_is_better(test["measure"])


def _loss(tests: Sequence[Mapping[str, Any]]) -> float:
    """The significant difference on the first measure, negative for the worse, or 0."""
    size = abs(tests[0]["difference"])
    return 0.0 if not is_significant(tests[0]) else size if _is_gain(tests[0]) else -size


def _columns(first: FinishedRun, pair: _Pair) -> dict[str, str]:
    """The systems beside a query -> the names of their columns: the first row, and the pair by its runs."""
    top = first.rows[0]
    return {first.system(top["run"]): top["label"], pair.baseline: pair.first.name, pair.system: pair.then.name}


def _plain(text: str) -> str:
    """On one line, without what Markdown reads as emphasis or markup."""
    return "".join(f"\\{c}" if c in r"\*_`[]<>|" else c for c in " ".join(text.split()))
