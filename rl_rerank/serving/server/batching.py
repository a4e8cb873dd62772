"""Requests that wait for the engine are ranked together.

The queue belongs to the event loop, and the engine to one worker thread, so that neither needs a lock. While the engine
ranks one batch the next one gathers. Clients that ask again as soon as they are answered would then stay in two groups,
each waiting for the other; so the engine pauses behind a batch until its clients have asked again, for `PAUSE` of the
batch's time at most.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from rl_rerank.config import ServeLimits
from rl_rerank.serving.server.metrics import Metrics
from rl_rerank.serving.server.model import Answer
from rl_rerank.types import RankingExample

logger = logging.getLogger(__name__)

LONGEST_RETRY = 60
"""Upper bound of the seconds after which a refused client is invited again."""
PAUSE = 0.1
"""Share of a batch's time that the engine waits behind it for further requests."""

Rank = Callable[[Sequence[RankingExample]], list[Answer]]


class Busy(Exception):
    """Raised when as many requests wait as may."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} requests wait for the model already; try again in {retry_after} s")
        self.retry_after = retry_after


class ModelFailed(Exception):
    """Raised when the model fails on a request for a reason that the log has."""


@dataclass(eq=False)
class _Job:
    """One accepted request."""

    examples: Sequence[RankingExample]
    answers: asyncio.Future[list[Answer]]
    num_documents: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_documents = sum(len(example.candidates) for example in self.examples)


class Batcher:
    """The queue in front of the engine.

    Args:
        rank: ranks examples; it is called in one thread only, one batch after another.
    """

    def __init__(self, rank: Rank, limits: ServeLimits, metrics: Metrics) -> None:
        self._rank = rank
        self._limits = limits
        self._metrics = metrics
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._seconds, self._documents = 0.0, 0
        self._expected, self._pause_ends = 0, 0.0
        """As many requests as there are clients, if all of the last batch ask again; and how long to wait for them."""

    async def ask(self, examples: Sequence[RankingExample]) -> list[Answer]:
        """Rank the examples of one request.

        Raises:
            Busy: if too many requests wait.
            TimeoutError: if there is no answer in time. What still waits is dropped.
            ValueError: if these examples cannot be ranked.
            ModelFailed: if the engine fails on them.
        """
        if len(self._waiting) >= self._limits.waiting:
            raise Busy(len(self._waiting), self._retry_after())
        job = _Job(examples, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._metrics.waiting.set(len(self._waiting))
        self._arrived.set()
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await job.answers
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
                self._metrics.waiting.set(len(self._waiting))

    async def run(self) -> None:
        """Rank batch after batch, until the task is cancelled; a batch under way is finished first."""
        with ThreadPoolExecutor(1, "engine") as worker:
            while True:
                await self._gather()
                batch = self._next()
                started = time.monotonic()
                await self._answer(worker, batch)
                ended = time.monotonic()
                self._expected = len(batch) + len(self._waiting)
                self._pause_ends = ended + PAUSE * (ended - started)

    async def _gather(self) -> None:
        """Wait until a request is there, and then until all that are expected are, or the pause is over."""
        while not self._waiting:
            await self._next_arrival()
        while len(self._waiting) < self._expected and self._num_waiting() < self._limits.batch_documents:
            if (left := self._pause_ends - time.monotonic()) <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._next_arrival()

    async def _next_arrival(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    def _next(self) -> list[_Job]:
        """Take the requests that have waited longest, as many as a batch may have; at least one if any wait."""
        batch: list[_Job] = []
        room = self._limits.batch_documents
        while self._waiting and (not batch or self._waiting[0].num_documents <= room):
            batch.append(self._waiting.popleft())
            room -= batch[-1].num_documents
        self._metrics.waiting.set(len(self._waiting))
        return batch

    async def _answer(self, worker: ThreadPoolExecutor, batch: Sequence[_Job]) -> None:
        examples = [example for job in batch for example in job.examples]
        if not examples:
            return
        started = time.monotonic()
        ranking = asyncio.get_running_loop().run_in_executor(worker, self._rank, examples)
        await asyncio.wait([ranking])
        self._observe(batch, time.monotonic() - started)
        failure = ranking.exception()
        if failure is None:
            answers = iter(ranking.result())
            for job in batch:
                mine = [next(answers) for _ in job.examples]
                if not job.answers.done():
                    job.answers.set_result(mine)
        elif len(batch) == 1:
            if not isinstance(failure, ValueError):
                logger.error("the model failed on a request", exc_info=failure)
                failure = ModelFailed()
            if not batch[0].answers.done():
                batch[0].answers.set_exception(failure)
        else:  # One of them is at fault, and the others must not fail with it.
            for job in batch:
                if not job.answers.done():
                    await self._answer(worker, [job])

    def _observe(self, batch: Sequence[_Job], seconds: float) -> None:
        documents = sum(job.num_documents for job in batch)
        self._metrics.batch(requests=len(batch), documents=documents, seconds=seconds)
        self._seconds += seconds
        self._documents += documents

    def _retry_after(self) -> int:
        """Estimate the seconds until those that wait are answered, from the speed so far."""
        speed = self._seconds / self._documents if self._documents else 0.0
        return min(max(math.ceil(self._num_waiting() * speed), 1), LONGEST_RETRY)

    def _num_waiting(self) -> int:
        """The documents of all requests that wait."""
        return sum(job.num_documents for job in self._waiting)
