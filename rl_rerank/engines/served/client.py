"""A client of OpenAI's protocol: bounded concurrency, retries, a cap on cost, and a count of what was used."""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from rl_rerank.engines.base import CapReached
from rl_rerank.engines.served.kinds import OpenAI

logger = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # It notes every request.

T = TypeVar("T")

TRANSIENT = (408, 409, 429, 500, *range(502, 600))
"""Status codes of a server that is busy or fails; 501 stays what it is."""
LONG_PAUSE = 60.0
"""Log a server-requested pause (Retry-After) longer than this many seconds."""
LONGEST_WAIT = 60.0
"""Upper bound of the backoff in seconds; a longer Retry-After overrides it."""


class Malformed(ValueError):
    """A reply that is not what the protocol says. It is asked for again."""


class _Transient(ConnectionError):
    """A failure that may pass."""


@dataclass(frozen=True)
class Request(Generic[T]):
    """One call that asks for one completion."""

    path: str
    body: dict[str, Any] | None
    """None: a GET, which costs nothing."""
    read: Callable[[Any], T]
    """Turns the reply's JSON into an answer; raises Malformed where it cannot."""
    most_tokens: tuple[int, int] = (0, 0)
    """Upper bound of the tokens of prompt and completion."""


class Client:
    """Sends requests to one server.

    `usage` counts calls, prompt_tokens, completion_tokens, retries and, where there are prices, cost. What the server
    does not count is taken at its upper bound, as is an attempt that was cut off: it may have been billed.
    """

    def __init__(self, args: OpenAI) -> None:
        self.args = args
        self.usage: Counter[str] = Counter(calls=0, prompt_tokens=0, completion_tokens=0, retries=0)
        self._cost = 0.0
        self._key = os.environ.get(args.api_key_variable, "").strip()

    @property
    def cost(self) -> float:
        """What was used at the configured prices."""
        return self._cost

    def send(self, requests: Sequence[Request[T]], on_completion: Callable[[int, T], None]) -> None:
        """Send all, and give each answer to `on_completion` with its place as soon as it is there.

        After a failure nothing more is sent, and what is under way is waited for: it is paid for.

        Raises:
            PermissionError: if the server does not accept the key.
            LookupError: if it does not have what is asked for, such as the model.
            ValueError: if it refuses a request, or if one may cost more than is left of the cap.
            ConnectionError: if it fails, or cannot be reached, at every attempt.
        """
        if requests:
            asyncio.run(_Round(self, requests, on_completion).run())

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def url(self, path: str) -> str:
        return f"{self.args.base_url.rstrip('/')}/{path}"

    def check(self, response: httpx2.Response) -> None:
        """Raise what a status code means."""
        status, says = response.status_code, self.safe(response.text)
        if status < 300:
            return
        where = f"{self.args.base_url} answers {status}"
        if status in (401, 403) or "insufficient_quota" in says:
            variable = self.args.api_key_variable
            key = f"the key in {variable}" if self._key else f"a request without a key, because {variable} is not set"
            raise PermissionError(f"{where} to {key}: {says}")
        if status in TRANSIENT:
            raise _Transient(f"{where}: {says}")
        if status == 404:
            raise LookupError(f"{where}; engine.args.model={self.args.model!r}: {says}")
        raise ValueError(f"{where} and refuses the request: {says}")

    def safe(self, text: object) -> str:
        """What a server or a library says, on one line; some repeat the key."""
        line = " ".join(str(text).split())
        return (line.replace(self._key, "***") if self._key else line)[:300]

    def most(self, request: Request[Any]) -> float:
        return self.price(*request.most_tokens)

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.args.prompt_price + completion_tokens * self.args.completion_price) / 1e6

    def count(self, reply: Any, request: Request[Any]) -> None:
        """Add what the server says that it used, or else the most that it can have been."""
        said = reply.get("usage") if isinstance(reply, dict) else None
        said = said if isinstance(said, dict) else {}
        used: list[int] = []
        for name, most in zip(("prompt_tokens", "completion_tokens"), request.most_tokens, strict=True):
            value = said.get(name)
            used.append(value if isinstance(value, int) and value >= 0 else most)
            self.usage[name] += used[-1]
        self._cost += self.price(*used)


class _Round(Generic[T]):
    """One call of `Client.send`, inside an event loop."""

    def __init__(self, client: Client, requests: Sequence[Request[T]], on_completion: Callable[[int, T], None]) -> None:
        self.client = client
        self.args = client.args
        self.on_completion = on_completion
        self.waiting = iter(enumerate(requests))
        self.num_workers = min(self.args.concurrency, len(requests))
        self.num_under_way = 0
        self.reserved = 0.0
        """What the requests under way may cost."""
        self.freed = asyncio.Condition()
        self.not_before = 0.0
        """When the server wants to be asked again, in monotonic seconds."""
        self.failure: Exception | None = None

    async def run(self) -> None:
        limits = httpx2.Limits(max_connections=self.num_workers)
        headers, timeout = self.client.headers(), self.args.timeout
        async with httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits) as http:
            await asyncio.gather(*(self._work(http) for _ in range(self.num_workers)))
        if self.failure is not None:
            raise self.failure

    async def _work(self, http: httpx2.AsyncClient) -> None:
        for place, request in self.waiting:
            if self.failure is not None:
                return
            try:
                answer = await self._answer(http, request)
            except (ValueError, LookupError, OSError) as e:
                self.failure = self.failure or e
                return
            self.on_completion(place, answer)

    async def _answer(self, http: httpx2.AsyncClient, request: Request[T]) -> T:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((_Transient, Malformed)),
            wait=wait_random_exponential(multiplier=self.args.retry_wait, max=LONGEST_WAIT),
            stop=stop_after_attempt(self.args.max_attempts),
            before_sleep=self._note,
            reraise=True,
        )
        try:
            return await retrying(self._attempt, http, request)
        except (_Transient, Malformed) as e:
            raise ConnectionError(
                f"{self.args.base_url} gave no usable answer in {self.args.max_attempts} attempts, the last time: {e}. "
                "The same command goes on from here"
            ) from None

    def _note(self, state: RetryCallState) -> None:
        self.client.usage["retries"] += 1
        logger.debug("attempt %d: %s", state.attempt_number, state.outcome and state.outcome.exception())

    async def _attempt(self, http: httpx2.AsyncClient, request: Request[T]) -> T:
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        most = self.client.most(request)
        await self._reserve(most)
        try:
            return await self._post(http, request)
        finally:
            async with self.freed:
                self.num_under_way -= 1
                self.reserved = self.reserved - most if self.num_under_way else 0.0
                self.freed.notify_all()

    async def _post(self, http: httpx2.AsyncClient, request: Request[T]) -> T:
        self.client.usage["calls"] += request.body is not None
        method = "GET" if request.body is None else "POST"
        try:
            response = await http.request(method, self.client.url(request.path), json=request.body)
        except httpx2.TransportError as e:
            if not isinstance(e, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)):
                self.client.count(None, request)
            raise _Transient(f"{type(e).__name__} {self.client.safe(e)}".strip()) from None
        if (seconds := _retry_after(response)) is not None:
            self.not_before = max(self.not_before, time.monotonic() + seconds)
            if seconds > LONG_PAUSE:
                logger.warning("%s asks for a pause of %.0f seconds", self.args.base_url, seconds)
        self.client.check(response)
        reply = None
        try:
            reply = _json(response)
            return request.read(reply)
        finally:
            self.client.count(reply, request)

    async def _reserve(self, most: float) -> None:
        """Wait until the cap leaves room for the request. What is under way mostly costs less than it may."""
        async with self.freed:
            await self.freed.wait_for(lambda: self._fits(most) or not self.num_under_way)
            if not self._fits(most):
                raise CapReached(
                    f"engine.args.max_cost={self.args.max_cost}: {self.client.cost:.6g} is spent and the next request "
                    f"may cost {most:.2g}. With a higher cap the same command goes on from here"
                )
            self.num_under_way += 1
            self.reserved += most

    def _fits(self, most: float) -> bool:
        cap = self.args.max_cost
        return cap is None or self.client.cost + self.reserved + most <= cap


def _json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Malformed(f"the reply is not JSON: {response.text[:80]!r}") from None


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds of the Retry-After header, which holds a number or a date."""
    value = response.headers.get("retry-after", "")
    if response.status_code < 300 or not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
