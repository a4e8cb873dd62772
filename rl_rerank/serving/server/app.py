"""The paths of the server, and what each makes of a ranking."""

from __future__ import annotations

import asyncio
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from starlette.responses import FileResponse

from rl_rerank import __version__
from rl_rerank.config import ServeLimits
from rl_rerank.metrics.logistic import sigmoid
from rl_rerank.serving.calibration import Calibration
from rl_rerank.serving.server import errors
from rl_rerank.serving.server.batching import Batcher, Rank
from rl_rerank.serving.server.errors import Refused
from rl_rerank.serving.server.gate import Gate
from rl_rerank.serving.server.metrics import Metrics
from rl_rerank.serving.server.model import LOG_ODDS, Answer, example
from rl_rerank.serving.server.schemas import (
    ApiVersion,
    Document,
    DocumentBody,
    Meta,
    Reasoning,
    Refusal,
    RerankRequest,
    RerankResponse,
    Result,
    Score,
    ScoreRequest,
    ScoreResponse,
    TEIRefusal,
    TEIRequest,
    TEIResult,
    Usage,
)
from rl_rerank.types import RankingExample

PAGE = Path(__file__).parent / "page"
SCALE = "X-Score-Scale"
"""Header with the scale of an answer's scores, also where the protocol has no field for it."""
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
STATUSES = (400, 401, 408, 413, 421, 422, 429, 500, 504)


class Doors:
    """The answers of each path.

    Args:
        name: the model's id.
        scale: the scale of its scores where they stand for themselves; empty if it gives none.
        calibration: how its scores become probabilities; None: it has none, and log-odds are taken as they are.
    """

    def __init__(
        self, name: str, scale: str, calibration: Calibration | None, batcher: Batcher, limits: ServeLimits
    ) -> None:
        self.name = name
        self.scale = scale
        self.has_probabilities = scale == LOG_ODDS or calibration is not None
        self.calibration = calibration
        self.batcher = batcher
        self.limits = limits

    async def rerank(self, asked: RerankRequest, version: str, response: Response) -> RerankResponse:
        """Answer as Cohere, Jina and vLLM do."""
        self._check_model(asked.model)
        activated = self._activated(asked.use_activation)
        self._check_threshold(asked.threshold)
        answer = await self._rank(asked.query, asked.documents, "documents", asked.instruction or "")
        response.headers[SCALE] = answer.scale
        thoughts = [Reasoning(documents=list(t.documents), text=t.text) for t in answer.thoughts]
        least = -math.inf if asked.threshold is None else asked.threshold
        best = [(index, self._score(answer, index, activated)) for index in answer.order[: asked.top_n or None]]
        return RerankResponse(
            id=uuid.uuid4().hex,
            model=self.name,
            results=[
                Result(
                    index=index,
                    relevance_score=score,
                    document=_body(asked.documents[index]) if asked.return_documents else None,
                )
                for index, score in best
                if score >= least
            ],
            meta=Meta(
                api_version=ApiVersion(version=version),
                score_scale=answer.scale,
                warnings=list(answer.warnings) or None,
            ),
            usage=_usage([answer]),
            reasoning=thoughts if asked.return_reasoning else None,
        )

    async def tei(self, asked: TEIRequest, response: Response) -> list[TEIResult]:
        """Answer as TEI does; scores that have no probability stay as they are."""
        answer = await self._rank(asked.query, [Document(text) for text in asked.texts], "texts")
        response.headers[SCALE] = answer.scale
        activated = not asked.raw_scores and self.has_probabilities
        return [
            TEIResult(
                index=index,
                score=self._score(answer, index, activated),
                text=asked.texts[index] if asked.return_text else None,
            )
            for index in answer.order
        ]

    async def score(self, asked: ScoreRequest, response: Response) -> ScoreResponse:
        """Answer as vLLM does, in the order of the pairs."""
        self._check_model(asked.model)
        if not self.scale:
            said = f"the model {self.name!r} orders documents and gives no scores that stand for themselves"
            raise Refused(422, f"{said}; use /v1/rerank")
        activated = self._activated(asked.use_activation)
        answers = await self._ask(_pairs(asked, self.limits.documents))
        response.headers[SCALE] = answers[0].scale
        scores = [self._score(answer, index, activated) for answer in answers for index in range(len(answer.scores))]
        return ScoreResponse(
            id=f"score-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            data=[Score(index=index, score=score) for index, score in enumerate(scores)],
            usage=_usage(answers),
        )

    async def _rank(self, query: str, documents: Sequence[Document], field: str, instruction: str = "") -> Answer:
        _check_size(len(documents), field, self.limits.documents)
        _check_query(query, "query")
        [answer] = await self._ask([example(query, documents, instruction)])
        return answer

    async def _ask(self, examples: Sequence[RankingExample]) -> list[Answer]:
        try:
            return await self.batcher.ask(examples)
        except ValueError as e:
            # Without the name that an example has inside the server only.
            raise Refused(422, re.sub("^qid '[0-9a-f]{64}': ", "", str(e))) from None

    def _check_model(self, name: str | None) -> None:
        if name not in (None, "", self.name):
            raise Refused(404, f"there is no model {name[:80]!r} here; this server has {self.name!r}")

    def _check_threshold(self, threshold: float | None) -> None:
        if threshold is not None and not self.scale:
            raise Refused(422, f"threshold needs scores that stand for themselves, which {self.name!r} does not give")

    def _activated(self, asked: bool | None) -> bool:
        if asked and not self.has_probabilities:
            raise Refused(
                422,
                f"use_activation=true needs scores that are log-odds or calibrated, which {self.name!r} does not give",
            )
        return bool(asked)

    def _score(self, answer: Answer, index: int, activated: bool) -> float:
        """The model's own score, or the probability that it stands for."""
        score = answer.scores[index]
        if not activated:
            return score
        return sigmoid(score) if self.calibration is None else self.calibration.probability(score)


def build(
    rank: Rank,
    *,
    name: str,
    scale: str,
    reasons: bool,
    calibration: Calibration | None = None,
    limits: ServeLimits | None = None,
    key: str = "",
    only_local: bool = False,
) -> FastAPI:
    """Build the application.

    Args:
        rank: ranks the examples of a batch, in a thread of its own.
        name: the model's id in requests and answers.
        scale: the scale of its scores where they stand for themselves; empty if it gives none.
        reasons: whether it writes reasoning.
        calibration: how its scores become probabilities.
        key: the key that requests must bear; empty: none is needed.
        only_local: refuse requests that name another host than this machine.
    """
    limits = limits or ServeLimits()
    metrics = Metrics()
    batcher = Batcher(rank, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    # Without FastAPI's pages of documentation: their scripts come from another host.
    app = FastAPI(title="rl-rerank", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_doors(app, Doors(name, scale, calibration, batcher, limits))
    _add_pages(app, {"status": "ok", "model": name, "score_scale": scale or "none", "reasons": reasons}, metrics)
    errors.install(app, limits)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(Gate, key=key, only_local=only_local, limits=limits, metrics=metrics, paths=paths)
    return app


def _add_doors(app: FastAPI, doors: Doors) -> None:
    given: dict[str, Any] = {
        "response_model_exclude_none": True,
        "responses": {status: {"model": Refusal} for status in (*STATUSES, 404)},
    }

    @app.post("/v1/rerank", **given)
    async def rerank_v1(asked: RerankRequest, response: Response) -> RerankResponse:
        return await doors.rerank(asked, "1", response)

    @app.post("/v2/rerank", **given)
    async def rerank_v2(asked: RerankRequest, response: Response) -> RerankResponse:
        return await doors.rerank(asked, "2", response)

    @app.post("/score", **given)
    async def score(asked: ScoreRequest, response: Response) -> ScoreResponse:
        return await doors.score(asked, response)

    refusals: dict[int | str, dict[str, Any]] = {status: {"model": TEIRefusal} for status in STATUSES}

    @app.post(errors.TEI, response_model_exclude_none=True, responses=refusals)
    async def tei(asked: TEIRequest, response: Response) -> list[TEIResult]:
        return await doors.tei(asked, response)


def _add_pages(app: FastAPI, state: dict[str, Any], metrics: Metrics) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return state

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": state["model"], "object": "model", "owned_by": "rl-rerank", "created": 0}],
        }

    @app.get("/metrics", response_class=Response)
    async def counts() -> Response:
        return Response(metrics.text(), media_type=PROMETHEUS)

    for path, file in {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}.items():
        app.add_api_route(path, _file(PAGE / file), include_in_schema=False)


def _file(path: Path) -> Any:
    async def send() -> FileResponse:
        return FileResponse(path)

    return send


def _pairs(asked: ScoreRequest, most: int) -> list[RankingExample]:
    """One example for one query, or one for each pair."""
    queries, documents = asked.text_1, asked.text_2
    _check_size(len(documents), "text_2", most)
    if len(queries) not in (1, len(documents)):
        raise Refused(
            422, f"text_1 has {len(queries)} texts and text_2 {len(documents)}; give one text_1, or as many as text_2"
        )
    for query in queries:
        _check_query(query, "text_1")
    instruction = asked.instruction or ""
    if len(queries) == 1:
        return [example(queries[0], [Document(text) for text in documents], instruction)]
    return [example(q, [Document(text)], instruction) for q, text in zip(queries, documents, strict=True)]


def _check_query(query: str, field: str) -> None:
    if not query.strip():
        raise Refused(422, f"{field} is empty, so there is nothing to rank for")


def _check_size(number: int, field: str, most: int) -> None:
    if number == 0:
        raise Refused(422, f"{field} is empty: give at least one document to rank")
    if number > most:
        raise Refused(422, f"{field} has {number} documents, more than limits.documents={most}")


def _body(document: Document) -> DocumentBody:
    return DocumentBody(text=document.text, title=document.title or None)


def _usage(answers: Sequence[Answer]) -> Usage | None:
    """The tokens of all prompts and completions; None where the engine does not know them."""
    prompt, completion = 0, 0
    for answer in answers:
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return None
        prompt, completion = prompt + answer.prompt_tokens, completion + answer.completion_tokens
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
