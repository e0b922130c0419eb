"""Errors as HTTP answers: problem+json (RFC 9457) that says what is wrong, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from projections.access import Forbidden, QuotaExceeded
from projections.generations import ViewNotReady
from projections.paging import BadCursor, NotFound
from projections.past.cut import BadMoment
from projections.position import BadToken
from projections.trouble import TROUBLE, DatabaseUnavailable
from schemas import errors as e

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"description": "Whole seconds until it may be tried again.", "schema": {"type": "integer"}}
RETRY_AFTER_S = {503: 1, 507: 10}
"""By status: room on a disk is rarely made within a second."""
STATUS: Mapping[type[e.HeadwaterError], int] = {
    BadCursor: 400,
    BadMoment: 400,
    BadToken: 400,
    e.DecodeError: 400,
    Forbidden: 403,
    NotFound: 404,
    e.SchemaIncompatible: 409,
    e.OffsetOutOfRange: 410,
    e.RecordTooLarge: 413,
    e.InvalidEvent: 422,
    QuotaExceeded: 429,
    e.BrokerUnavailable: 503,
    e.DiskReadOnly: 503,
    DatabaseUnavailable: 503,
    ViewNotReady: 503,
    e.DeadlineExceeded: 504,
    e.DiskFull: 507,
}


class Flaw(BaseModel):
    """One thing that is wrong with a request."""

    where: Annotated[str, Field(description="Part of the request: `query.limit`, `body.0.type`.")]
    what: str


class Problem(BaseModel):
    """RFC 9457, with `hint` (what to do) and `errors` (each flaw of a request) as extensions."""

    type: Annotated[str, Field(description="Names the kind of problem.", json_schema_extra={"format": "uri"})]
    title: str
    status: int
    detail: str
    instance: Annotated[str, Field(description="Path of the request.")]
    hint: str = ""
    errors: list[Flaw] = []


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that may answer with these problems."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    flaw = schema.pop("$defs")["Flaw"]
    schema["properties"]["errors"]["items"] = flaw
    answers: dict[int | str, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
    for status in {429, *RETRY_AFTER_S} & answers.keys():
        answers[status]["headers"] = {"Retry-After": RETRY_AFTER}
    return answers


def respond(
    request: Request,
    status: int,
    kind: str,
    detail: str,
    *,
    hint: str = "",
    errors: list[Flaw] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem+json answer. `kind` is an error's name, such as `DeadlineExceeded`."""
    problem = Problem(
        **in_words(kind),
        status=status,
        detail=detail,
        instance=request.url.path,
        hint=hint,
        errors=errors or [],
    )
    return JSONResponse(problem.model_dump(), status, dict(headers or {}), media_type=MEDIA_TYPE)


def in_words(kind: str) -> dict[str, str]:
    """Type and title of a problem that is an error of that name."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", kind).lower()
    return {"type": f"urn:headwater:problem:{name}", "title": name.replace("-", " ").capitalize()}


def _takes(app: FastAPI, request: Request) -> str:
    """Which parameters the call has, for one who guessed another."""
    route = request.scope.get("route")
    operation = app.openapi()["paths"].get(getattr(route, "path", ""), {}).get(request.method.lower(), {})
    names = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
    return f"it takes {', '.join(names)}; see /docs" if names else "see /docs"


def install(app: FastAPI, statuses: Mapping[type[e.HeadwaterError], int] | None = None) -> None:
    """Answer every error of `app` with a problem; `statuses` adds to, and goes before, the table above."""
    table = {**STATUS, **(statuses or {})}

    @app.exception_handler(e.HeadwaterError)
    async def _ours(request: Request, error: e.HeadwaterError) -> JSONResponse:
        status = next((table[c] for c in type(error).__mro__ if c in table), 503 if error.retriable else 500)
        if status == 500:
            log.error("http.failed", path=request.url.path, error=repr(error))
        if isinstance(error, Forbidden | QuotaExceeded):
            request.state.refused = error.reason  # for the access log
        wait_s = error.retry_after_s if isinstance(error, QuotaExceeded) else RETRY_AFTER_S.get(status, 0)
        retry = {"Retry-After": str(wait_s)} if wait_s else {}
        return respond(request, status, type(error).__name__, error.message, hint=error.hint, headers=retry)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        flaws = [Flaw(where=".".join(map(str, f["loc"])), what=f["msg"]) for f in error.errors()]
        status = 400 if any(f["type"] == "json_invalid" for f in error.errors()) else 422
        detail = "; ".join(f"{f.where}: {f.what}" for f in flaws)
        return respond(request, status, "InvalidRequest", detail, hint=_takes(app, request), errors=flaws)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        kind = HTTPStatus(error.status_code).phrase.title().replace(" ", "").replace("-", "")
        return respond(request, error.status_code, kind, str(error.detail), headers=error.headers)

    async def _database(request: Request, error: Exception) -> JSONResponse:
        log.error("http.database_failed", path=request.url.path, error=str(getattr(error, "orig", error)))
        return respond(
            request,
            503,
            "DatabaseUnavailable",
            "the views' database did not answer",
            hint="see `headwater doctor`",
            headers={"Retry-After": str(RETRY_AFTER_S[503])},
        )

    for trouble in TROUBLE:
        app.add_exception_handler(trouble, _database)

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("http.failed", path=request.url.path, exc_info=error)
        return respond(request, 500, "InternalError", "this is a fault of the server", hint="see serve's log")
