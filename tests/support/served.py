"""The server's application over tiny models, in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rl_rerank.config import LongDocumentsConfig, ServeLimits
from rl_rerank.engines.scripted import Scripted
from rl_rerank.paradigms.base import traits
from rl_rerank.serving.calibration import Calibration
from rl_rerank.serving.reranker import Reranker
from rl_rerank.serving.server.app import build
from rl_rerank.serving.server.model import Model
from rl_rerank.types import Prompt


@contextmanager
def client(
    model: Reranker | Model,
    *,
    limits: ServeLimits | None = None,
    key: str = "",
    only_local: bool = False,
    name: str = "tiny",
    calibration: Calibration | None = None,
) -> Iterator:
    """A client of the application in this process; an error of the server is an answer, not an exception."""
    from starlette.testclient import TestClient

    ranks = model if isinstance(model, Model) else Model(model.paradigm, model.engine, model.contract.long_documents)
    reasons = traits(ranks.paradigm).reasoning
    given = {"limits": limits, "key": key, "only_local": only_local, "calibration": calibration}
    app = build(ranks, name=name, scale=ranks.scale, reasons=reasons, **given)
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


@contextmanager
def listening(
    model: Reranker | Model, *, limits: ServeLimits | None = None, key: str = "", name: str = "tiny"
) -> Iterator[str]:
    """The address of the server in a thread of this process."""
    import uvicorn

    ranks = model if isinstance(model, Model) else Model(model.paradigm, model.engine, model.contract.long_documents)
    app = build(ranks, name=name, scale=ranks.scale, reasons=False, limits=limits, key=key)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def shown(prompt: Prompt) -> list[str]:
    """The texts of the documents that a prompt shows, in its order."""
    by_docid = dict.fromkeys(prompt.docids, "")
    for segment in (s for message in prompt.messages for s in message.segments):
        if segment.docid is not None:
            by_docid[segment.docid] += segment.text
    return list(by_docid.values())


def scripted(
    paradigm: Any, answer: Callable[[Prompt], str], score: Callable[[Prompt, str], float] | None = None
) -> Model:
    """A model whose answers come from a function."""
    return Model(paradigm, Scripted(answer, score), LongDocumentsConfig())


def by_length(paradigm: Any) -> Model:
    """A pointwise model: the longer a document, the better."""
    return scripted(paradigm, lambda _: "", lambda p, text: float(len(shown(p)[0])) if text == "yes" else 0.0)
