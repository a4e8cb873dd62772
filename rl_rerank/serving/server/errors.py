"""Refusals as sentences, in the form that the client of each path reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from rl_rerank.config import ServeLimits
from rl_rerank.serving.server.batching import Busy, ModelFailed
from rl_rerank.serving.server.schemas import ErrorBody, Refusal, TEIRefusal, kind

TEI = "/rerank"
"""The path whose errors have TEI's form."""
TYPES = {
    401: "authentication",
    404: "not_found",
    413: "too_large",
    421: "misdirected",
    422: "validation",
    429: "overloaded",
    500: "backend",
}


def refused(path: str, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Make the answer to a request that is refused."""
    name = TYPES.get(status, "invalid_request" if status < 500 else "unavailable")
    if path == TEI:
        body: Refusal | TEIRefusal = TEIRefusal(error=sentence, error_type=name)
    else:
        body = Refusal(message=sentence, detail=sentence, error=ErrorBody(message=sentence, type=name, code=status))
    return JSONResponse(body.model_dump(), status, headers)


def sentence(errors: Sequence[Mapping[str, Any]]) -> str:
    """Say what is wrong with the first of pydantic's errors, and where. Values are not repeated: they may be long."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    found = first.get("input")
    match first["type"]:
        case "json_invalid":
            return f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][1]}"
        case "missing":
            return f"{place} is missing" if place else "the request has no body; send a JSON object"
        case "refused" if place:
            return f"{place} {first['msg']}"
        case "refused":
            return first["msg"] + _content_type(found)
        case "list_type":
            return f"{place} must be a list; got {kind(found)}"
        case _:
            return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}; got {kind(found)}"


def _content_type(body: object) -> str:
    return "; the header Content-Type must be application/json" if isinstance(body, bytes) else ""


class Refused(Exception):
    """A request that is answered with a sentence instead of a ranking."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def install(app: FastAPI, limits: ServeLimits) -> None:
    """Have the application answer each kind of error."""
    routers = {
        400: "the body cannot be read: it must be JSON in UTF-8, and neither deep nor with numbers of many digits",
        404: "there is nothing at this path; GET /openapi.json lists those that there are",
        405: "this path is not for this method; GET /openapi.json lists those that there are",
    }

    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return refused(request.url.path, 422, sentence(error.errors()))

    async def http(request: Request, error: HTTPException) -> JSONResponse:
        said = routers.get(error.status_code, error.detail)
        return refused(request.url.path, error.status_code, said, error.headers)

    async def ours(request: Request, error: Refused) -> JSONResponse:
        return refused(request.url.path, error.status, str(error))

    async def busy(request: Request, error: Busy) -> JSONResponse:
        return refused(request.url.path, 429, str(error), {"Retry-After": str(error.retry_after)})

    async def late(request: Request, _: TimeoutError) -> JSONResponse:
        said = f"there was no answer within limits.seconds={limits.seconds:g}; send fewer documents, or try again later"
        return refused(request.url.path, 504, said)

    async def failed(request: Request, _: ModelFailed) -> JSONResponse:
        return refused(request.url.path, 500, "the model failed on this request; the server's log says why")

    handlers: dict[type[Exception], Any] = {
        RequestValidationError: invalid,
        HTTPException: http,
        Refused: ours,
        Busy: busy,
        TimeoutError: late,
        ModelFailed: failed,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)
