"""Scoring a generation batch: each process scores its own rows, and queries are gathered from all processes.

A batch is one optimizer step. A group is always on one process, but the prompts of a query may be on several.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from accelerate.utils import gather_object
from torch import Tensor

from rl_rerank.reward.base import Breakdown, RewardError, Term, calls, evaluate
from rl_rerank.reward.workers import Call, Workers
from rl_rerank.training.loop.training_prompts import Question
from rl_rerank.types import Completion, Judgment, Rollout

Row = tuple[int, Completion, Judgment]
"""A question's number with its answer: a rollout without the prompt, which every process has."""


@dataclass(frozen=True)
class Scores:
    """The terms' scores of this process's rows."""

    values: list[dict[str, Breakdown]]
    """Breakdowns of each row by term name."""
    seconds: dict[str, float]
    """Run time of each term, or waiting time for its workers."""


def begin(
    terms: Sequence[Term], questions: Sequence[Question], rows: Sequence[Row], workers: Mapping[str, Workers]
) -> None:
    """Start workers on the rows of the next `score_rows` call, except for terms that need whole queries."""
    here = _prompts(questions, rows)
    for term in terms:
        if term.name in workers and not term.needs_query:
            workers[term.name].begin([call for some in _split(term, here) for call in some])


def score_rows(
    terms: Sequence[Term],
    questions: Sequence[Question],
    rows: Sequence[Row],
    gather: Callable[[list[Row]], list[Row]],
    *,
    num_generations: int,
    workers: Mapping[str, Workers] | None = None,
) -> Scores:
    """Score this process's rows.

    Args:
        rows: the completions of this process, siblings adjacent.
        gather: gathers the rows of all processes; called on all of them, and only if a term needs queries.
        workers: workers by term name; a term without any runs here.

    Raises:
        RewardError: if a term fails.
        ValueError: if a query is incomplete.
    """
    values: list[dict[str, Breakdown]] = [{} for _ in rows]
    seconds: dict[str, float] = {}
    whole = _queries(questions, gather(list(rows)), num_generations) if any(t.needs_query for t in terms) else {}
    here = _prompts(questions, rows)
    for term in terms:
        start = time.perf_counter()
        own = (workers or {}).get(term.name)
        if term.needs_query:
            found = _of_queries(term, own, questions, rows, whole)
        else:
            found = [value for group in _evaluated(term, own, here) for value in group]
        for row, value in zip(values, found, strict=True):
            row[term.name] = value
        seconds[term.name] = time.perf_counter() - start
    return Scores(values, seconds)


def term_metrics(name: str, values: Tensor, num_generations: int) -> dict[str, float]:
    """Compute metrics of a term that trl does not log.

    Args:
        values: [B*G], of all processes, siblings adjacent.

    Returns:
        min, max, and the share of groups in which the term is constant and so gives no learning signal.
    """
    groups = values.view(-1, num_generations)
    constant = (groups.max(dim=1).values == groups.min(dim=1).values).float().mean()
    figures = {"min": values.min(), "max": values.max(), "constant_groups": constant}
    return {f"rewards/{name}/{figure}": value.item() for figure, value in figures.items()}


def score_everywhere(
    terms: Sequence[Term],
    questions: Sequence[Question],
    rows: Sequence[Row],
    *,
    num_generations: int,
    workers: Mapping[str, Workers],
) -> Scores:
    """Call `score_rows` on every process; a failure on one ends all.

    Raises:
        RewardError: on every process, if a term fails on one.
    """
    scores, failures = None, []
    try:
        scores = score_rows(terms, questions, rows, gather_object, num_generations=num_generations, workers=workers)
    except RewardError as e:
        failures.append(e)
    everywhere = gather_object([str(e) for e in failures])
    if scores is None or everywhere:
        raise RewardError(everywhere[0]) from (failures[0] if failures else None)
    return scores


def _of_queries(
    term: Term,
    workers: Workers | None,
    questions: Sequence[Question],
    rows: Sequence[Row],
    whole: Mapping[int, Sequence[Row]],
) -> list[Breakdown]:
    """Pick each row's value from the values of its query."""
    queries = [whole[query] for query in dict.fromkeys(questions[row[0]].query for row in rows)]
    asked = [(questions[rows[0][0]].example, [_rollout(questions, row) for row in rows]) for rows in queries]
    found: dict[int, list[Breakdown]] = {}
    for together, values in zip(queries, _evaluated(term, workers, asked), strict=True):
        for (question, _, _), value in zip(together, values, strict=True):
            found.setdefault(question, []).append(value)
    # The rows of a question are on one process, in the order in which they were gathered.
    return [found[question].pop(0) for question, _, _ in rows]


def _evaluated(term: Term, workers: Workers | None, asked: Sequence[Call]) -> list[list[Breakdown]]:
    """Compute a value for each rollout of each of `asked`."""
    if workers is None:
        return [evaluate(term, example, rollouts) for example, rollouts in asked]
    split = _split(term, asked)
    answers = iter(workers.evaluate([call for some in split for call in some]))
    return [[value for _ in some for value in next(answers)] for some in split]


def _prompts(questions: Sequence[Question], rows: Sequence[Row]) -> list[Call]:
    """Collect the rollouts of each prompt."""
    return [
        (questions[question].example, [_rollout(questions, row) for row in group])
        for question, group in groupby(rows, key=lambda row: row[0])
    ]


def _split(term: Term, asked: Sequence[Call]) -> list[list[Call]]:
    """Split each of `asked` into the term's calls."""
    return [[(example, some) for some in calls(term, rollouts)] for example, rollouts in asked]


def _queries(questions: Sequence[Question], rows: Sequence[Row], num_generations: int) -> dict[int, list[Row]]:
    """Map each query to its rows in the order of its prompts.

    Raises:
        ValueError: if the number of a query's rows is not its number of prompts times G.
    """
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[0]):
        found.setdefault(questions[row[0]].query, []).append(row)
    for together in found.values():
        prompts = _num_prompts(questions, together[0][0])
        expected = prompts * num_generations
        if len(together) != expected:
            qid = questions[together[0][0]].prompt.qid
            raise ValueError(
                f"qid {qid!r}: a reward compares all {prompts} prompts x {num_generations} generations = "
                f"{expected} completions of a query, and this batch holds {len(together)} of them"
            )
    return found


def _num_prompts(questions: Sequence[Question], number: int) -> int:
    """Count the prompts of a question's query, which stand together."""
    query, first, last = questions[number].query, number, number
    while first > 0 and questions[first - 1].query == query:
        first -= 1
    while last + 1 < len(questions) and questions[last + 1].query == query:
        last += 1
    return last - first + 1


def _rollout(questions: Sequence[Question], row: Row) -> Rollout:
    question, completion, judgment = row
    return Rollout(questions[question].prompt, completion, judgment)
