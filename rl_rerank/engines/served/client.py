"""A client of a model server: bounded concurrency, retries, a cap on cost, and a count of usage."""

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
from rl_rerank.engines.served.kinds import Served

logger = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # It notes every request.

T = TypeVar("T")

TRANSIENT = (408, 409, 429, 500, *range(502, 600))
"""Status codes of a server that is busy or fails; not 501, as another attempt does not implement anything."""
LONG_PAUSE = 60.0
"""Log a server-requested pause (Retry-After) longer than this many seconds."""
LONGEST_WAIT = 60.0
"""Upper bound of the backoff in seconds; a longer Retry-After overrides it."""


class Malformed(ValueError):
    """A reply that violates the protocol. The client sends its request again."""


class _Transient(ConnectionError):
    """A failure that may pass."""


@dataclass(frozen=True)
class Request(Generic[T]):
    """One HTTP request."""

    path: str
    body: dict[str, Any] | Callable[[], dict[str, Any]] | None
    """A function makes it when it is sent. None: a GET, which costs nothing."""
    read: Callable[[Any], T]
    """Function that turns the reply's JSON into an answer, and raises Malformed where it cannot."""
    most_tokens: tuple[int, int] = (0, 0)
    """Upper bounds of the tokens of the prompt and of the completion."""


class Client:
    """Sends requests to one server.

    `usage` counts calls, prompt_tokens, completion_tokens, retries and, where there are prices, cost. Tokens that the
    server does not report count at their upper bound, as do those of an attempt that was cut off: the server may have
    billed it.
    """

    def __init__(self, args: Served) -> None:
        self.args = args
        self.usage: Counter[str] = Counter(calls=0, prompt_tokens=0, completion_tokens=0, retries=0)
        self._cost = 0.0
        # A key that was read from a file often ends in a newline, which no HTTP header may contain.
        self._key = os.environ.get(args.api_key_variable, "").strip()

    @property
    def cost(self) -> float:
        """The cost of all usage so far, at the configured prices."""
        return self._cost

    def send(self, requests: Sequence[Request[T]], on_completion: Callable[[int, T], None]) -> None:
        """Send all requests, and pass each answer with its place to `on_completion` as soon as it arrives.

        After a failure, send nothing more, but wait for the requests under way, as they have to be paid for.

        Raises:
            PermissionError: if the server does not accept the key.
            LookupError: if it lacks the resource, such as the model.
            ValueError: if it refuses a request, or if a request may cost more than the cap has left.
            ConnectionError: if it fails or is out of reach at every attempt.
        """
        if requests:
            asyncio.run(_Round(self, requests, on_completion).run())

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def url(self, path: str) -> str:
        return f"{self.args.base_url.rstrip('/')}/{path}"

    def check(self, response: httpx2.Response) -> None:
        """Raise the exception that fits the status code of a failure."""
        status, says = response.status_code, self.safe(response.text)
        if status < 300:
            return
        where = f"{self.args.base_url} answers {status}"
        # Before the transient codes: OpenAI answers 429 both to a client that is too fast and to an account without
        # credit, and waiting does not help the latter.
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
        """Return the text of a server or a library on one line, without the key, which some repeat."""
        # Replaced before the text is cut: a key that straddles the cut would survive in part.
        line = " ".join(str(text).split())
        return (line.replace(self._key, "***") if self._key else line)[:300]

    def most(self, request: Request[Any]) -> float:
        return self.price(*request.most_tokens)

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.args.prompt_price + completion_tokens * self.args.completion_price) / 1e6

    def count(self, reply: Any, request: Request[Any]) -> None:
        """Add the usage that the server reports, or else its upper bound."""
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
        # All workers draw from this one iterator. They share a thread and await nothing while they draw, so each
        # request is taken once, without a lock.
        self.waiting = iter(enumerate(requests))
        self.num_workers = min(self.args.concurrency, len(requests))
        self.num_under_way = 0
        self.reserved = 0.0
        """Upper bound of the cost of the requests under way."""
        self.freed = asyncio.Condition()
        self.not_before = 0.0
        """The time before which the server wants no request, in monotonic seconds, safe from changes of the clock."""
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
            # Kept instead of raised: `gather` passes on the first exception at once, and the HTTP client would close
            # under requests of other workers that are paid for.
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
        # A loop, because the reply to another request may have extended the pause in the meantime. Retry-After concerns
        # the whole account, so all workers wait.
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        most = self.client.most(request)
        await self._reserve(most)
        try:
            return await self._post(http, request)
        finally:
            async with self.freed:
                self.num_under_way -= 1
                # Sums of floats do not cancel exactly. Reset whenever nothing is under way, or the remainder would add
                # up and refuse a request that just fits under the cap.
                self.reserved = self.reserved - most if self.num_under_way else 0.0
                self.freed.notify_all()

    async def _post(self, http: httpx2.AsyncClient, request: Request[T]) -> T:
        self.client.usage["calls"] += request.body is not None
        method = "GET" if request.body is None else "POST"
        body = request.body() if callable(request.body) else request.body
        try:
            response = await http.request(method, self.client.url(request.path), json=body)
        except httpx2.TransportError as e:
            # These three fail before anything is sent. After any other failure the server may have computed the answer,
            # and billed it, though none arrived.
            if not isinstance(e, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)):
                self.client.count(None, request)
            raise _Transient(f"{type(e).__name__} {self.client.safe(e)}".strip()) from None
        if (seconds := _retry_after(response)) is not None:
            # Replies arrive in any order, and a shorter pause must not cut a longer one short.
            self.not_before = max(self.not_before, time.monotonic() + seconds)
            if seconds > LONG_PAUSE:
                logger.warning("%s asks for a pause of %.0f seconds", self.args.base_url, seconds)
        self.client.check(response)
        # A reply that cannot be read is counted too, at the upper bound if it is not even JSON. The caller releases its
        # reservation only after this, so at every moment the cap sees the request as reserved or as spent.
        reply = None
        try:
            reply = _json(response)
            return request.read(reply)
        finally:
            self.client.count(reply, request)

    async def _reserve(self, most: float) -> None:
        """Wait until the cap leaves room for the request: those under way mostly cost less than their upper bounds."""
        async with self.freed:
            # With nothing under way, nobody would ever notify: a request that does not fit then never will.
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
    """Return the seconds of the Retry-After header, which is a number or a date."""
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
