"""`rl-rerank serve`: from settings to a process that listens, until a signal ends it."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from rl_rerank.config import ServeModel
from rl_rerank.paradigms.base import members, traits
from rl_rerank.serving.contract import GOLDEN
from rl_rerank.serving.reranker import Reranker
from rl_rerank.serving.server.app import build
from rl_rerank.serving.server.model import Model, example
from rl_rerank.serving.server.schemas import Document

logger = logging.getLogger(__name__)


def serve(settings: ServeModel) -> None:
    """Load the model and answer requests until SIGTERM or SIGINT; accepted requests are finished first.

    Raises:
        OSError: if the address cannot be listened on, before the model is loaded.
        ValueError: if other machines could use the model without a key; and as `Reranker.load`.
    """
    key = os.environ.get(settings.api_key_variable, "").strip()
    settings.check_key(key)
    with _bound(settings.host, settings.port) as listening:
        reranker = Reranker.load(
            settings.model,
            settings.engine,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            revision=settings.revision,
        )
        try:
            _run(settings, reranker, key, listening)
        finally:
            reranker.close()


def _run(settings: ServeModel, reranker: Reranker, key: str, listening: socket.socket) -> None:
    model = Model(reranker.paradigm, reranker.engine, reranker.contract.long_documents)
    query, texts = GOLDEN[0]
    # An engine that cannot answer this paradigm is found before anybody asks, and kernels are compiled.
    model([example(query, [Document(text) for text in texts])])
    name = settings.name or settings.model.rstrip("/").rpartition("/")[2]
    reasons = any(traits(member).reasoning for member in members(reranker.paradigm).values())
    only_local = not key and not settings.open_to_network
    given = {"limits": settings.limits, "key": key, "only_local": only_local}
    calibrated = reranker.contract.calibration
    app = build(model, name=name, scale=model.scale, reasons=reasons, calibration=calibrated, **given)
    # One process: the queue is in memory, and the model too. Without a log of requests: /metrics counts them.
    quiet = {"log_config": None, "log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(app, lifespan="on", **quiet)
    host, port = listening.getsockname()[:2]
    logger.info(
        "%s (%s) at http://%s:%d, %s",
        *(name, reranker.paradigm.name, f"[{host}]" if ":" in host else host, port),
        "with a key" if key else "without a key",
    )
    server = uvicorn.Server(config)
    with _ended_by_signals(server):
        server.run(sockets=[listening])


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at the address; nobody can connect before the server listens on it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as e:
        raise OSError(f"host={host}: {e.strerror or e}") from None
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
        except OSError as e:
            raise OSError(f"cannot listen on host={host} port={port}: {e.strerror or e}") from None
        yield listening


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Have a signal end the server, also before it listens to signals itself.

    It sends itself the signal again when it has ended; that changes nothing more, so that the process closes the model
    and ends with status 0.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    before = {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
