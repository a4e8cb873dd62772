"""Measuring runs with ir_measures, by trec_eval's rules whatever computes a measure.

Beside what ir_measures offers there are the measures of `total_recall` and `user_models`. nDCG with exponential gains,
`nDCG(dcg='exp-log2')@10`, is computed as nDCG with the gains 2^grade - 1. None of these needs another program. Measures
of diversity are those of `subtopics`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import ir_measures
from ir_measures import Measure, providers

from rl_rerank.evaluation import subtopics
from rl_rerank.evaluation.total_recall import TotalRecall
from rl_rerank.evaluation.user_models import UserModels
from rl_rerank.io.trec import file_order, trec_order

OURS = (TotalRecall(), UserModels())
PIPELINE = providers.FallbackProvider([*OURS, *ir_measures.DefaultPipeline.providers])
"""What computes a measure: the first of these that can."""
LOWER_IS_BETTER = ("LastRel",)
MAX_EXPONENT = 50
"""The highest grade that exponential gains take: 2^50 - 1 is still an exact float."""
EXAMPLES = "nDCG@10, AP, AP(rel=2), RR@10, P(rel=2)@5, R@100, Judged@10, Bpref, Rprec, SetF"

Run = Mapping[str, Mapping[str, float]]
"""qid -> docid -> score, higher is better."""
Qrels = Mapping[str, Mapping[str, int]]
"""qid -> docid -> grade."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run is worth."""

    provider: dict[str, str]
    """Distribution -> version of what computed the values."""
    mean: dict[str, float]
    """Measure, as the caller wrote it -> mean over all judged queries (counts such as NumRet: the sum)."""
    per_query: dict[str, dict[str, float]]
    """qid -> measure -> value, for every judged query, also those that the run lacks."""
    missing: tuple[str, ...]
    """Judged queries for which the run has no document, in the order of the qrels."""
    num_unjudged: int
    """Queries of the run that the qrels do not know. They are left out of everything else."""


def parse(text: str) -> Measure:
    """The measure that `text` names in the notation of ir_measures, such as `P(rel=2)@5`.

    Raises:
        ValueError: if there is no such measure, a parameter is wrong, or nothing that is installed computes it.
        ImportError: with what to install, for a measure of diversity.
    """
    try:
        measure = ir_measures.parse_measure(text.strip())
        measure.validate_params()
    except (ValueError, NameError, TypeError, KeyError, AssertionError, SyntaxError) as e:
        raise ValueError(f"{text!r} is no measure: {e}.{_similar(text)} Examples: {EXAMPLES}") from None
    # trec_eval aborts the whole process at a cutoff below 1.
    for parameter in ("cutoff", "rel"):
        value = measure.params.get(parameter, 1)
        if isinstance(value, bool) or value < 1:
            reason = f"{parameter} must be at least 1; got {value}"
            raise ValueError(f"{text!r} is no measure: {reason}. Examples: {EXAMPLES}")
    if not 0 < measure.params.get("p", 0.5) < 1:
        reason = f"p must lie between 0 and 1; got {measure.params['p']}"
        raise ValueError(f"{text!r} is no measure: {reason}. Examples: {EXAMPLES}")
    subtopics.check_installed(text, measure)
    if not PIPELINE.supports(_with_linear_gains(text, measure)):
        raise ValueError(f"{text!r}: nothing that is installed computes this measure. Examples: {EXAMPLES}")
    return measure


def check_judgments(text: str) -> None:
    """Raise ValueError for a measure that judgments without subtopics do not suffice for."""
    if subtopics.needs_subtopics(parse(text)):
        raise ValueError(
            f"{text!r} needs judgments by subtopic, which the data of an experiment do not have; "
            "`rl-rerank evaluate run=RUN qrels=QRELS` reads them from the second column of QRELS"
        )


def is_sum(text: str) -> bool:
    """Whether the measure is summed over queries (NumQ, NumRel, NumRet) instead of averaged."""
    return isinstance(parse(text).aggregator(), ir_measures.SumAgg)


def lower_is_better(text: str) -> bool:
    """Whether a smaller value of the measure is the better one."""
    return parse(text).NAME in LOWER_IS_BETTER


def evaluate(
    run: Run,
    qrels: Qrels,
    measures: Sequence[str],
    by_subtopic: subtopics.Subtopics | None = None,
    *,
    ties: Literal["docid", "file"] = "docid",
) -> Evaluation:
    """The values of `measures` for `run`.

    Args:
        by_subtopic: the judgments of measures of diversity, on the same queries as `qrels`.
        ties: the order of equal scores: the larger docid first, or as they stand in `run`.

    The mean is trec_eval's with `-c`: it is taken over all judged queries of the qrels, and one that the run lacks
    counts 0 (trec_eval without `-c` leaves it out, so that a system that fails on hard queries looks better). The value
    of a query that the run has is the same either way. Ranks follow `trec_order` for every measure, also for those
    that trec_eval itself does not compute; gains are linear unless the measure says otherwise; an unjudged document
    counts as not relevant. IPrec is that of trec_eval 9, which pytrec_eval wraps: trec_eval 10 rounds its recall points
    otherwise.

    Raises:
        ValueError: for something that is no measure, for qrels without queries, and for a run that has documents but
            shares no query with the qrels; for a grade above `MAX_EXPONENT` where gains are exponential.
    """
    if not measures:
        raise ValueError(f"there is nothing to measure: the list of measures is empty. Examples: {EXAMPLES}")
    parsed = {text: parse(text) for text in measures}
    judged = {qid: dict(grades) for qid, grades in qrels.items() if grades}
    if not judged:
        raise ValueError("the qrels hold no judged query, so there is nothing to measure against")
    ranked = {qid: scores for qid, scores in run.items() if scores}
    kept = {qid: _ranks(qid, scores, ties) for qid, scores in ranked.items() if qid in judged}
    if ranked and not kept:
        raise ValueError(
            f"run and qrels share no query: the run has {_some(ranked)}, the qrels have {_some(judged)}; "
            "do they belong to the same collection?"
        )
    for text in measures if by_subtopic is None else ():
        check_judgments(text)
    of_subtopics = {m for m in parsed.values() if subtopics.needs_subtopics(m)}
    values = _values(kept, judged, set(parsed.values()) - of_subtopics)
    for measure in of_subtopics:
        found = dict(subtopics.values(measure, by_subtopic or {}, kept))
        values[measure] = {qid: found.get(qid, 0.0) for qid in judged}
    per_query = {qid: {text: values[measure][qid] for text, measure in parsed.items()} for qid in judged}
    totals = {text: math.fsum(row[text] for row in per_query.values()) for text in parsed}
    return Evaluation(
        provider={name: version(name) for name in _distributions(parsed.values())},
        mean={text: total if is_sum(text) else total / len(judged) for text, total in totals.items()},
        per_query=per_query,
        missing=tuple(qid for qid in judged if qid not in kept),
        num_unjudged=sum(1 for qid in ranked if qid not in judged),
    )


def _ranks(qid: str, scores: Mapping[str, float], ties: Literal["docid", "file"]) -> dict[str, float]:
    # Providers break ties in different ways. Scores without ties leave them no choice.
    try:
        order = trec_order(scores) if ties == "docid" else file_order(scores)
    except ValueError as e:
        raise ValueError(f"qid {qid!r}: {e}") from None
    return {docid: float(len(order) - place) for place, docid in enumerate(order)}


def _values(run: Run, qrels: Qrels, measures: set[Measure]) -> dict[Measure, dict[str, float]]:
    # A judged query that the run lacks is worth 0, except in counts that belong to the query alone.
    values = {m: {qid: _absent(m, grades) for qid, grades in qrels.items()} for m in measures}
    if run:
        wanted: dict[Measure, list[Measure]] = {}
        for measure in measures:
            # Two notations may come to the same gains.
            wanted.setdefault(_with_gains_of(measure, qrels), []).append(measure)
        for group in _groups(wanted):
            for metric in PIPELINE.iter_calc(group, qrels, run):
                for measure in wanted[metric.measure] if metric.query_id in run else ():
                    values[measure][metric.query_id] = float(metric.value)
    return values


def _is_exponential(measure: Measure) -> bool:
    return measure.NAME == "nDCG" and measure["dcg"] == "exp-log2"


def _with_linear_gains(text: str, measure: Measure) -> Measure:
    # Whether a measure with exponential gains can be computed is the question whether the same with linear ones can.
    if not _is_exponential(measure):
        return measure
    if "gains" in measure.params:
        raise ValueError(f"{text!r} is no measure: gains and dcg='exp-log2' both say what a grade is worth")
    return measure(dcg="log2")


def _with_gains_of(measure: Measure, qrels: Qrels) -> Measure:
    # 2^grade - 1 for every grade there is. A negative grade gains nothing with either.
    if not _is_exponential(measure):
        return measure
    grades = {grade for of_query in qrels.values() for grade in of_query.values() if grade > 0}
    if grades and max(grades) > MAX_EXPONENT:
        raise ValueError(f"{measure}: the qrels hold the grade {max(grades)}, too high for the gain 2^grade - 1")
    return measure(dcg="log2", gains={grade: 2**grade - 1 for grade in sorted(grades)})


def _distributions(measures: Iterable[Measure]) -> list[str]:
    is_ours = any(provider.supports(measure) for measure in measures for provider in OURS)
    beside = ["rl-rerank"] if is_ours else []
    if any(map(subtopics.needs_subtopics, measures)):
        beside.append(subtopics.PACKAGE)
    return ["ir_measures", "pytrec_eval-terrier", *beside]


def _absent(measure: Measure, grades: Mapping[str, int]) -> float:
    if measure.NAME == "NumQ":
        return 1.0
    if measure.NAME == "NumRel":
        return float(sum(1 for grade in grades.values() if grade >= measure["rel"]))
    return 0.0


def _groups(measures: Iterable[Measure]) -> list[list[Measure]]:
    # ir_measures may compute a measure without `gains` or `judged_only` in one pass with one that has them, and then
    # with them, depending on the order of a set. So these never share a call.
    groups: dict[str, list[Measure]] = {}
    for measure in sorted(measures, key=str):
        key = repr((measure.params.get("gains"), measure.params.get("judged_only", False)))
        groups.setdefault(key, []).append(measure)
    return list(groups.values())


def _similar(text: str) -> str:
    name = text.strip().split("@")[0].split("(")[0]
    known = [k for k in ir_measures.measures.registry if k.casefold() == name.casefold() and k != name]
    return f" Did you mean {known[0]!r}?" if known else ""


def _some(queries: Mapping[str, object]) -> str:
    shown = ", ".join(repr(q) for q in list(queries)[:3])
    return f"{len(queries)} ({shown}{', ...' if len(queries) > 3 else ''})"
