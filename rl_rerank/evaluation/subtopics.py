"""Measures of diversity, such as alpha_nDCG: judgments say to which subtopics of a query a document is relevant.

ir_measures leaves them to the package pyndeval, which computes them as ndeval does. Judgments stand in TREC's diversity
files, whose second column is the subtopic.
"""

from collections.abc import Iterator, Mapping

from ir_measures import Measure, Qrel, providers

from rl_rerank.requirements import install, is_installed

PACKAGE = "pyndeval"

Subtopics = Mapping[str, Mapping[str, Mapping[str, int]]]
"""qid -> subtopic -> docid -> grade."""

_NAMES = {measure.NAME for measure in providers.registry[PACKAGE].SUPPORTED_MEASURES}


def needs_subtopics(measure: Measure) -> bool:
    """Whether the measure is one of diversity."""
    return measure.NAME in _NAMES


def check_installed(text: str, measure: Measure) -> None:
    """Raise ImportError, with the command that installs it, if the measure needs pyndeval and it is missing."""
    if needs_subtopics(measure) and not is_installed(PACKAGE):
        sentence = f"{text!r} needs {PACKAGE}, which is not installed: {install(PACKAGE)}"
        raise ImportError(sentence, name=PACKAGE)


def values(
    measure: Measure, subtopics: Subtopics, run: Mapping[str, Mapping[str, float]]
) -> Iterator[tuple[str, float]]:
    """(qid, value) of the queries of a run whose scores have no ties."""
    judged = [
        Qrel(qid, docid, grade, subtopic)
        for qid, of_query in subtopics.items()
        for subtopic, grades in of_query.items()
        for docid, grade in grades.items()
    ]
    # One measure a call: the provider hands its run to the first of several settings only.
    for metric in providers.registry[PACKAGE].iter_calc([measure], judged, run):
        yield metric.query_id, float(metric.value)


def any_subtopic(subtopics: Subtopics) -> dict[str, dict[str, int]]:
    """qid -> docid -> the highest grade over subtopics, which is what other measures take."""
    found: dict[str, dict[str, int]] = {}
    for qid, of_query in subtopics.items():
        grades = found.setdefault(qid, {})
        for judged in of_query.values():
            for docid, grade in judged.items():
                grades[docid] = max(grade, grades.get(docid, grade))
    return found
