"""A server that speaks enough of OpenAI's protocol, and fails in the ways that are asked of it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any, dict[str, str]]
"""Status, content (a string is sent as it is, anything else as JSON), headers."""


@dataclass
class StandIn:
    """What the server was sent, and how it answers."""

    url: str = ""
    reply: Callable[[dict[str, Any], int], Reply] = field(default=lambda body, number: message("yes"))
    """Makes the reply to a request, which is the so-manieth with this body."""
    models: Reply = (404, {"error": {"message": "no list here"}}, {})
    seconds: float = 0.0
    """How long each answer takes."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


def message(text: str, prompt_tokens: int = 10, completion_tokens: int = 2, **choice: Any) -> Reply:
    """A chat completion."""
    choices = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return 200, {"choices": choices, "usage": usage}, {}


def error(status: int, text: str = "try again", **headers: str) -> Reply:
    return status, {"error": {"message": text}}, {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def serving() -> Iterator[StandIn]:
    """The server, in threads of this process, for as long as the block lasts."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            stand_in.keys.append(self.headers.get("authorization"))
            self.answer(*stand_in.models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with stand_in.lock:
                stand_in.at_once += 1
                stand_in.most_at_once = max(stand_in.most_at_once, stand_in.at_once)
                stand_in.bodies.append(body)
                stand_in.paths.append(self.path)
                stand_in.keys.append(self.headers.get("authorization"))
                stand_in.times.append(time.monotonic())
                stand_in.seen[json.dumps(body)] += 1
                number = stand_in.seen[json.dumps(body)]
            time.sleep(stand_in.seconds)
            with stand_in.lock:
                stand_in.at_once -= 1
            self.answer(*stand_in.reply(body, number))

        def answer(self, status: int, content: Any, headers: dict[str, str]) -> None:
            raw = (content if isinstance(content, str) else json.dumps(content)).encode()
            try:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)
            except (BrokenPipeError, ConnectionResetError):
                pass  # The client did not wait.

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
