"""What every request passes before the application: the host that it names, its key, and the size of its body and the
time it takes to arrive.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Mapping

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rl_rerank.config import ServeLimits
from rl_rerank.serving.server.errors import refused
from rl_rerank.serving.server.metrics import Metrics

OPEN = ("/", "/page.css", "/page.js", "/healthz")
"""Paths that need no key: they tell nothing of documents."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def is_local(host: str) -> bool:
    """Whether a request's `Host` header, perhaps with a port, names this machine."""
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if colon and not port.isdecimal():
        return False
    name = (name if colon else host).lower().removesuffix(".")
    if name == "localhost":
        return True
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


class Gate:
    """Middleware around the application.

    Args:
        key: the key that requests must bear; empty: none is needed.
        only_local: refuse requests that name another host than this machine.
        paths: those of the application, by which requests are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str,
        only_local: bool,
        limits: ServeLimits,
        metrics: Metrics,
        paths: frozenset[str],
    ) -> None:
        self.app = app
        self.key = key.encode()
        self.only_local = only_local
        self.limits = limits
        self.metrics = metrics
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, started, status = scope["path"], time.monotonic(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            if (refusal := self._refusal(path, Headers(scope=scope))) is not None:
                await refused(path, *refusal)(scope, receive, sending)
            else:
                await self.app(scope, self._bounded(receive), sending)
        finally:
            self.metrics.request(path if path in self.paths else "other", status, time.monotonic() - started)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str, Mapping[str, str]] | None:
        """Decide by the headers alone: status, sentence and headers of a refusal."""
        if self.only_local and not is_local(headers.get("host", "")):
            # A page from elsewhere can have its own name resolve to 127.0.0.1, and then asks as this machine's browser.
            said = (
                "this server needs no key, so it answers only requests to localhost, 127.0.0.1 or [::1]; give it a "
                "key, or say open_to_network=true"
            )
            return 421, said, {"Connection": "close"}
        if self.key and path not in OPEN and not self._bears_key(headers.get("authorization", "")):
            said = "this server needs its key, as the header 'Authorization: Bearer KEY'"
            return 401, said, {"WWW-Authenticate": "Bearer"}
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.limits.body_bytes:
            return 413, self._too_large, {"Connection": "close"}
        return None

    def _bears_key(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        # The header's own bytes, in a time that does not tell how many of them were right.
        return hmac.compare_digest(given.strip().encode("latin-1"), self.key) and scheme.lower() == "bearer"

    def _bounded(self, receive: Receive) -> Receive:
        """Receive a body up to the limits: a client may send in pieces, without end or without haste."""
        size, whole = 0, False
        deadline = time.monotonic() + self.limits.seconds

        async def receiving() -> Message:
            nonlocal size, whole
            if whole:  # What follows is the news that the client is gone.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"the body did not arrive within limits.seconds={self.limits.seconds:g}",
                    {"Connection": "close"},
                ) from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > self.limits.body_bytes:
                raise HTTPException(413, self._too_large, {"Connection": "close"})
            return message

        return receiving

    @property
    def _too_large(self) -> str:
        return f"the body is larger than limits.body_bytes={self.limits.body_bytes}"
