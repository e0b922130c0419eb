"""One correlation id from door to view, and the access log: a line a request.

Plain ASGI: Starlette's BaseHTTPMiddleware copies every body and cancels what runs after a disconnect.
"""

from __future__ import annotations

import os
import re
import time

import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.envelope import new_id
from streams.producing.outgoing import TRACEPARENT
from streams.supervision.metrics import REGISTRY

HEADER = "X-Correlation-Id"
_ID = re.compile(r"[\x21-\x7e]{1,256}")
_QUIET = ("/healthz", "/readyz", "/metrics")
_SLOWEST_BUCKET_S = 10.0

log = structlog.get_logger()
_REQUESTS = Counter(
    "headwater_http_requests",
    "Answers by route and status.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
_SECONDS = Histogram(
    "headwater_http_seconds",
    "Time to the last byte of an answer; event streams are left out.",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, _SLOWEST_BUCKET_S),
    registry=REGISTRY,
)
_REFUSALS = Counter(
    "headwater_key_refusals",
    "Requests refused, in whole or in part, for their key: missing, unknown, expired, replaced, scope, project, quota.",
    ["reason"],
    registry=REGISTRY,
)


class Correlation:
    """Takes `X-Correlation-Id` and `traceparent` over or makes them; puts them into `request.state`.

    Without `X-Correlation-Id` the id is traceparent's trace id. Both end up in the logs; events that
    say nothing of their own get them; the answer has the correlation id as a header, and what routes
    leave in `request.state.headers`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        correlation_id, traceparent = identify(Headers(scope=scope))
        state = scope.setdefault("state", {})
        state |= {"correlation_id": correlation_id, "traceparent": traceparent}
        started = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = correlation_id
                headers.update(state.get("headers", {}))
            await send(message)

        with structlog.contextvars.bound_contextvars(correlation_id=correlation_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                _report(scope, status, time.perf_counter() - started)


def identify(headers: Headers) -> tuple[str, str]:
    """Correlation id and traceparent of a request; what is missing or malformed is made."""
    traceparent = headers.get("traceparent", "")
    if not TRACEPARENT.fullmatch(traceparent):
        traceparent = ""
    correlation_id = headers.get(HEADER, "")
    if not _ID.fullmatch(correlation_id):
        correlation_id = traceparent[3:35] or new_id()
    return correlation_id, traceparent or f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def _report(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unknown")
    _REQUESTS.labels(scope["method"] if route != "unknown" else "any", route, status).inc()
    state = scope["state"]
    if not state.get("streamed"):
        _SECONDS.labels(scope["method"] if route != "unknown" else "any", route).observe(seconds)
    refused = {"refused": state["refused"]} if "refused" in state else {}
    if refused:
        _REFUSALS.labels(state["refused"]).inc()
    say = log.warning if refused else log.debug if scope["path"] in _QUIET else log.info
    say(
        "http.request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        ms=round(seconds * 1000, 2),
        key=state.get("key_name"),
        key_id=state.get("key_id"),
        **refused,
    )
