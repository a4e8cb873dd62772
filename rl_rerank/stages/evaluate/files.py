"""Measure run files, and test them against each other: `rl-rerank evaluate run=RUN qrels=QRELS`."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_rerank.config import EvaluateFiles
from rl_rerank.data.sources import qrels as judgments
from rl_rerank.evaluation.comparisons import compare
from rl_rerank.evaluation.intervals import intervals
from rl_rerank.evaluation.judged import warn_if_unjudged
from rl_rerank.evaluation.measures import Evaluation, evaluate, parse
from rl_rerank.evaluation.records import Comparison
from rl_rerank.evaluation.subtopics import any_subtopic, needs_subtopics
from rl_rerank.evaluation.table import p_values
from rl_rerank.io import trec
from rl_rerank.io.files import write_json

logger = logging.getLogger(__name__)

SEED = 1
"""Of intervals and tests."""


def evaluate_files(config: EvaluateFiles) -> dict[str, Any]:
    """The values of one run file, or of several; also written to `config.output` where given.

    Returns:
        `provider` (distribution -> version), `mean` (measure -> value over all judged queries), `interval` (measure ->
        its 95% interval, without sums), `per_query` (qid -> measure -> value) and `missing` (judged queries that the
        run lacks; they count 0). With `config.runs`: `runs`, file -> these, and `comparisons`, a list of the paired
        tests of each against the first, with p-values adjusted by Holm's method.
    """
    for measure in config.measures:
        parse(measure)
    named = [("run", config.run)] if config.run else [("runs", run) for run in config.runs]
    for field, path in (*named, ("qrels", config.qrels)):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{field}={path!r}: there is no such file")
    results = _evaluations(config, [path for _, path in named])
    if config.run:
        values = _values(results[config.run])
    else:
        first, *others = config.runs
        systems = {run: [result] for run, result in results.items()}
        tests = compare(systems, [(run, first) for run in others], config.measures[0], SEED)
        values = {
            "runs": {run: _values(result) for run, result in results.items()},
            "comparisons": [dataclasses.asdict(test) for test in tests],
        }
    if config.output is not None:
        write_json(Path(config.output), values)
    return values


def lines(values: Mapping[str, Any]) -> list[str]:
    """The means of `evaluate_files` for display, and a sentence for each test."""
    if "runs" not in values:
        return [f"{measure}\t{mean:.4f}" for measure, mean in values["mean"].items()]
    found = [
        f"{run}\t{measure}\t{mean:.4f}" for run, of in values["runs"].items() for measure, mean in of["mean"].items()
    ]
    return found + [_sentence(Comparison(**test)) for test in values["comparisons"]]


def _evaluations(config: EvaluateFiles, runs: list[str]) -> dict[str, Evaluation]:
    path, by_subtopic = Path(config.qrels), None
    if any(needs_subtopics(parse(measure)) for measure in config.measures):
        by_subtopic = trec.read_subtopics(path)
    qrels = judgments.read(path) if by_subtopic is None else any_subtopic(by_subtopic)
    found: dict[str, Evaluation] = {}
    for run in runs:
        ranked = trec.read_run(Path(run))
        warn_if_unjudged(run, ranked, qrels)
        result = evaluate(ranked, qrels, config.measures, by_subtopic, ties=config.ties)
        if result.num_unjudged:
            logger.warning("%s: %d queries have no judgments and are left out", run, result.num_unjudged)
        if result.missing:
            logger.warning("%s lacks %d judged queries, which count 0", run, len(result.missing))
        found[run] = result
    return found


def _values(result: Evaluation) -> dict[str, Any]:
    return {
        "provider": result.provider,
        "mean": result.mean,
        "interval": intervals(result, SEED),
        "per_query": result.per_query,
        "missing": list(result.missing),
    }


def _sentence(test: Comparison) -> str:
    low, high = test.interval
    if not test.is_significant:
        said = f"no significant difference of {test.system} from {test.baseline}"
    else:
        said = f"{test.system} is {'better' if test.is_gain else 'worse'} than {test.baseline}"
    return f"{said}: {test.difference:+.4f} {test.measure}, 95% interval {low:+.4f} to {high:+.4f}, {p_values(test)}"
