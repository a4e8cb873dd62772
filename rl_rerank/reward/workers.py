"""Worker processes for a slow reward, so that calls can time out.

They are spawned, not forked, because forking a process with threads or a GPU is unsafe. Each process builds the reward
by name and parameters instead of unpickling it, so that rewards from files work too.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread

from rl_rerank.reward.base import Breakdown, Recipe, RewardError, Term, evaluate, instead
from rl_rerank.types import RankingExample, Rollout

SECONDS_TO_START = 300.0
"""Time limit for a process to import the reward's dependencies; call times exclude it."""

Call = tuple[RankingExample, Sequence[Rollout]]
"""An example with the rollouts of one call of the reward."""


class Workers:
    """The processes of one term, started on first use; they end with this one."""

    def __init__(self, term: Term) -> None:
        if term.recipe is None:
            raise ValueError(f"reward {term.name!r} has workers, which build it by name: give the term its recipe")
        self.term = term
        self._idle: list[_Worker] = []
        self._begun: _Begun | None = None

    def begin(self, calls: Sequence[Call]) -> None:
        """Start the calls of the next `evaluate` in the background."""
        self._begun = _Begun(self._answers, calls)
        self._begun.start()

    def evaluate(self, calls: Sequence[Call]) -> list[list[Breakdown]]:
        """Run the term on each call, in order.

        Raises:
            RewardError: if a call fails or times out and the term has no fallback value.
        """
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.join()
            if begun.calls == calls:
                return begun.answers()
        return self._answers(calls)

    def _answers(self, calls: Sequence[Call]) -> list[list[Breakdown]]:
        while len(self._idle) < min(self.term.workers, len(calls)):
            self._idle.append(_Worker.started(self.term))  # all at once: they take their time
        answers: list[list[Breakdown]] = [[] for _ in calls]
        waiting = deque(range(len(calls)))
        busy: dict[int, _Worker] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self.term.workers:
                    worker = self._idle.pop() if self._idle else _Worker.started(self.term)
                    number = waiting.popleft()
                    busy[number] = worker
                    worker.send(self.term, calls[number])
                for number in _done(busy):
                    worker = busy.pop(number)
                    answer = worker.answer(self.term, calls[number])
                    if not worker.has_ended:
                        self._idle.append(worker)
                    is_error = isinstance(answer, RewardError)
                    answers[number] = instead(self.term, answer, calls[number][1]) if is_error else answer
        finally:
            for worker in busy.values():  # where a call failed, the others are not waited for
                worker.end()
        return answers

    def close(self) -> None:
        """End the processes."""
        while self._idle:
            self._idle.pop().end()


class _Begun(Thread):
    """A thread that waits for answers to calls. A daemon, so that a failing run does not wait for a slow reward."""

    def __init__(self, function: Callable[[Sequence[Call]], list[list[Breakdown]]], calls: Sequence[Call]) -> None:
        super().__init__(daemon=True)
        self.calls = calls
        self._function = function
        self._found: list[list[Breakdown]] | Exception = []

    def run(self) -> None:
        try:
            self._found = self._function(self.calls)
        except Exception as e:  # noqa: BLE001 (raised where the answers are asked for)
            self._found = e

    def answers(self) -> list[list[Breakdown]]:
        """Return the function's result or raise its error; valid once the thread has ended."""
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    is_ready: bool = False
    has_ended: bool = False
    deadline: float | None = None

    @classmethod
    def started(cls, term: Term) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(_Settings.of(term), there), daemon=True)
        process.start()
        there.close()
        return cls(process, here)

    def send(self, term: Term, call: Call) -> None:
        """Send a call once the process has started.

        Raises:
            RewardError: if the process does not start.
        """
        try:
            if not self.is_ready:
                self._wait_until_ready(term)
            self.connection.send(call)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            raise RewardError(
                f"reward {term.name!r}: its process ended with status {self.process.exitcode} between two calls"
            ) from None
        self.deadline = None if term.timeout is None else time.monotonic() + term.timeout

    def _wait_until_ready(self, term: Term) -> None:
        if not self.connection.poll(SECONDS_TO_START):
            raise RewardError(f"reward {term.name!r}: its process did not start in {SECONDS_TO_START:.0f} s")
        if reason := self.connection.recv():
            self.end()
            raise RewardError(f"reward {term.name!r} cannot be built in a process of its own: {reason}")
        self.is_ready = True

    def answer(self, term: Term, call: Call) -> list[Breakdown] | RewardError:
        """Receive the answer; a process without an answer in time is ended."""
        example, rollouts = call
        place = f"qid {example.qid!r} and the completion {rollouts[0].completion.text[:200]!r}"
        if not self.connection.poll():
            self.end()
            return RewardError(f"reward {term.name!r} took longer than timeout={term.timeout} s for {place}")
        try:
            answer = self.connection.recv()
        except EOFError:
            self.end()
            return RewardError(
                f"reward {term.name!r}: its process ended with status {self.process.exitcode} on {place}"
            )
        return RewardError(answer) if isinstance(answer, str) else answer

    def end(self) -> None:
        """End the process, even during a call."""
        self.has_ended = True
        self.process.kill()
        self.process.join()
        self.connection.close()


def _done(busy: dict[int, _Worker]) -> list[int]:
    """Wait until at least one call has an answer or has timed out, and list these calls."""
    deadlines = [worker.deadline for worker in busy.values() if worker.deadline is not None]
    left = max(min(deadlines) - time.monotonic(), 0.0) if deadlines else None
    ready = wait([worker.connection for worker in busy.values()], left)
    now = time.monotonic()
    return [
        number
        for number, worker in busy.items()
        if worker.connection in ready or (worker.deadline is not None and worker.deadline <= now)
    ]


@dataclass(frozen=True)
class _Settings:
    """Plain values that are sent to a process."""

    recipe: Recipe
    weight: float

    @classmethod
    def of(cls, term: Term) -> _Settings:
        assert term.recipe is not None
        return cls(term.recipe, term.weight)


def _work(settings: _Settings, connection: Connection) -> None:
    """Run a worker process: build the reward, and answer calls until the other end is closed."""
    try:
        term = Term(settings.recipe.name, settings.recipe.build(), settings.weight)
    except Exception as e:  # noqa: BLE001 (a plugin's constructor may raise anything; the other end raises it)
        connection.send(f"{type(e).__name__}: {e}")
        return
    connection.send("")
    while True:
        try:
            example, rollouts = connection.recv()
        except EOFError:
            return
        try:
            answer: list[Breakdown] | str = evaluate(term, example, rollouts)
        except RewardError as e:
            answer = str(e)
        connection.send(answer)
