"""Scoring a generation batch: completions become rollouts, terms score them, metrics and a table record the result."""

# Shape legend: B completions of all processes, siblings adjacent.

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl_rerank.reward.base import Breakdown, total
from rl_rerank.training.grpo import advantages
from rl_rerank.training.loop import scoring, table
from rl_rerank.training.loop.task import Task
from rl_rerank.types import Rollout, Status


class Judged(NamedTuple):
    """One completion of this process."""

    question: int
    rollout: Rollout
    values: dict[str, Breakdown]
    """Breakdowns by term name."""


class Judge:
    """Reads and scores completions of a task.

    Args:
        score: scores this process's rows by all terms.
        begin: receives the rows that `score` is called with next.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Any,
        end_ids: Collection[int],
        score: Callable[[list[scoring.Row]], scoring.Scores],
        begin: Callable[[list[scoring.Row]], None],
        num_generations: int,
    ) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.score = score
        self._begin = begin
        self._begun: tuple[list[int], list[list[int]], list[Rollout]] | None = None
        self.num_generations = num_generations
        self.seconds: dict[str, float] = {}
        self._rewards: list[tuple[str, float]] = []

    def begin(self, questions: Sequence[int], completions: Sequence[Sequence[int]]) -> None:
        """Read the completions of the next call, and let slow terms start on them."""
        rollouts = self._read(questions, completions)
        self._begun = [*questions], [[*ids] for ids in completions], rollouts
        self._begin(_rows(questions, rollouts))

    def __call__(self, questions: Sequence[int], completions: Sequence[Sequence[int]]) -> list[Judged]:
        """Judge and score completions; every process must call it equally often.

        Args:
            questions: the number of each completion's question, siblings adjacent.
            completions: token ids.
        """
        rollouts = self._read(questions, completions)
        scores = self.score(_rows(questions, rollouts))
        for name, seconds in scores.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        judged = [Judged(*row) for row in zip(questions, rollouts, scores.values, strict=True)]
        self._rewards += [(row.rollout.prompt.qid, self.reward(row)) for row in judged]
        return judged

    def _read(self, questions: Sequence[int], completions: Sequence[Sequence[int]]) -> list[Rollout]:
        begun, self._begun = self._begun, None
        if begun is not None and begun[:2] == ([*questions], [[*ids] for ids in completions]):
            return begun[2]
        return [
            self.task.rollout(question, ids, self.tokenizer, self.end_ids)
            for question, ids in zip(questions, completions, strict=True)
        ]

    def take_rewards(self) -> list[tuple[str, float]]:
        """Take (qid, weighted sum) of every completion judged since the last call."""
        found, self._rewards = self._rewards, []
        return found

    def reward(self, row: Judged) -> float:
        """Compute the weighted sum of the terms."""
        return total(self.task.terms, {name: found.value for name, found in row.values.items()})

    def values(self, rows: Sequence[Judged]) -> list[list[float]]:
        """Collect the terms' values: [rows, terms]."""
        return [[row.values[term.name].value for term in self.task.terms] for row in rows]

    def table(self, rows: Sequence[Judged], step: int) -> list[dict[str, Any]]:
        """Build rows of the completions table."""
        return [
            table.row(
                step,
                self.task.questions[row.question].example,
                row.rollout,
                {name: found.value for name, found in row.values.items()},
                self.reward(row),
            )
            for row in rows
        ]

    def own_metrics(self, rows: Sequence[Judged]) -> Iterator[tuple[str, float]]:
        """Yield metrics to average over processes: shares of well-formed and gated answers, time and parts of terms."""
        yield "well_formed", sum(row.rollout.judgment.status is Status.ok for row in rows) / len(rows)
        for name, seconds in self.seconds.items():
            yield f"rewards/{name}/seconds", seconds
        self.seconds = {}
        for term in self.task.terms:
            if term.failed is not None:
                failed = ["failed" in row.values[term.name].parts for row in rows]
                yield f"rewards/{term.name}/failed", sum(failed) / len(failed)
            gated = ["gate" in row.values[term.name].parts for row in rows]
            yield f"rewards/{term.name}/gated", sum(gated) / len(gated)
        for row in rows:
            for name, found in row.values.items():
                for part, value in found.parts.items():
                    yield f"rewards/{name}/{part}/mean", value

    def metrics(self, rewards: Tensor) -> Mapping[str, float]:
        """Compute metrics that trl does not log: range of terms, groups with a constant term, variance within groups.

        Args:
            rewards: [B, terms].
        """
        found: dict[str, float] = {}
        for column, term in enumerate(self.task.terms):
            found |= scoring.term_metrics(term.name, rewards[:, column], self.num_generations)
        weights = torch.tensor([term.weight for term in self.task.terms], dtype=rewards.dtype, device=rewards.device)
        found["group_variance_share"] = advantages.variance_within(rewards @ weights, self.num_generations)
        return found


def _rows(questions: Sequence[int], rollouts: Sequence[Rollout]) -> list[scoring.Row]:
    return [(question, r.completion, r.judgment) for question, r in zip(questions, rollouts, strict=True)]


class NamedTerm:
    """Gives a term its name in trl's logs; the values come from `_calculate_rewards`."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, **_: Any) -> list[float]:
        raise AssertionError("rewards are computed by RankingGRPOTrainer._calculate_rewards")
