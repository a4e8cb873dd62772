"""What the terms make of a generation batch: each process scores its own rows, queries are put together from all.

A batch is one optimizer step's: whole groups lie on one process, but the prompts of a query may lie on several.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rl_rerank.reward import Breakdown, Term, evaluate
from rl_rerank.training.questions import Question
from rl_rerank.types import Completion, Judgment, Rollout

Row = tuple[int, Completion, Judgment]
"""A question's number, and what was answered: a rollout without its prompt, which every process has."""


@dataclass(frozen=True)
class Scores:
    """What the terms made of this process's rows."""

    values: list[dict[str, Breakdown]]
    """For each row, by the term's name."""
    seconds: dict[str, float]
    """How long each term took."""


def score_rows(
    terms: Sequence[Term],
    questions: Sequence[Question],
    rows: Sequence[Row],
    gather: Callable[[list[Row]], list[Row]],
    *,
    num_generations: int,
) -> Scores:
    """Score this process's rows.

    Args:
        rows: the completions of this process, siblings adjacent.
        gather: puts the rows of all processes together; called on all of them, and only where a term needs queries.

    Raises:
        ValueError: if a term fails, or a query is not whole.
    """
    values: list[dict[str, Breakdown]] = [{} for _ in rows]
    seconds: dict[str, float] = {}
    whole = _queries(questions, gather(list(rows)), num_generations) if any(t.needs_query for t in terms) else {}
    for term in terms:
        begin = time.perf_counter()
        for found, value in zip(values, _term(term, questions, rows, whole), strict=True):
            found[term.name] = value
        seconds[term.name] = time.perf_counter() - begin
    return Scores(values, seconds)


def term_metrics(name: str, values: Tensor, num_generations: int) -> dict[str, float]:
    """What trl does not log of a term.

    Args:
        values: [B*G], of all processes, siblings adjacent.

    Returns:
        min, max, and the share of groups in which the term is constant, and so teaches nothing.
    """
    groups = values.view(-1, num_generations)
    constant = (groups.max(dim=1).values == groups.min(dim=1).values).float().mean()
    figures = {"min": values.min(), "max": values.max(), "constant_groups": constant}
    return {f"rewards/{name}/{figure}": value.item() for figure, value in figures.items()}


def _term(
    term: Term, questions: Sequence[Question], rows: Sequence[Row], whole: Mapping[int, Sequence[Row]]
) -> list[Breakdown]:
    if not term.needs_query:
        return [evaluate(term, questions[row[0]].example, [_rollout(questions, row)])[0] for row in rows]
    found: dict[int, list[Breakdown]] = {}
    for query in dict.fromkeys(questions[row[0]].query for row in rows):
        together = whole[query]
        rollouts = [_rollout(questions, row) for row in together]
        values = evaluate(term, questions[together[0][0]].example, rollouts)
        for (question, _, _), value in zip(together, values, strict=True):
            found.setdefault(question, []).append(value)
    # The rows of a question are on one process, in the order in which they were gathered.
    return [found[question].pop(0) for question, _, _ in rows]


def _queries(questions: Sequence[Question], rows: Sequence[Row], num_generations: int) -> dict[int, list[Row]]:
    """Query -> its rows in the order of its prompts.

    Raises:
        ValueError: if a query has other than its number of prompts times G rows.
    """
    prompts = Counter(question.query for question in questions)
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[0]):
        found.setdefault(questions[row[0]].query, []).append(row)
    for query, together in found.items():
        expected = prompts[query] * num_generations
        if len(together) != expected:
            qid = questions[together[0][0]].prompt.qid
            raise ValueError(
                f"qid {qid!r}: a reward compares all {prompts[query]} prompts x {num_generations} generations = "
                f"{expected} completions of a query, and this batch holds {len(together)} of them"
            )
    return found


def _rollout(questions: Sequence[Question], row: Row) -> Rollout:
    question, completion, judgment = row
    return Rollout(questions[question].prompt, completion, judgment)
