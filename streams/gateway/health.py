"""Health, readiness, metrics, and a page that says where everything is."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

from projections.access import ADMIN, Caller, require
from projections.problem import Flaw, documented, respond
from streams.gateway.auth import Guard
from streams.gateway.readiness import missing
from streams.settings import Settings
from streams.supervision import metrics

_INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Headwater</title>
<style>body{font:16px/1.6 system-ui;max-width:40em;margin:3em auto;padding:0 1em}code{background:#eee}</style>
<h1>Headwater</h1><p>Event-sourced stream processing for fleets of AI agents.</p><ul>
<li><a href="/docs">/docs</a>: the API, <a href="/openapi.json">/openapi.json</a></li>
<li><code>POST /v1/events</code>, <code>GET /v1/events, /v1/runs, /v1/agents, /v1/components,
/v1/anomalies, /v1/dead-letters</code></li>
<li><code>/registry</code>: schemas, as a Confluent Schema Registry answers</li>
<li><a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>, <code>/metrics</code></li></ul>
<p>Calls carry a key: <code>Authorization: Bearer $(cat .headwater/api-key)</code></p></html>"""


class Health(BaseModel):
    """This process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Every process is at work."""

    status: Literal["ready"] = "ready"


def routes(settings: Settings, guard: Guard) -> APIRouter:
    """`/healthz` and `/readyz` need no key: probes have none, and learn nothing of any project."""
    router = APIRouter(tags=["operations"])

    @router.get("/healthz")
    async def is_alive() -> Health:
        """200 while this process answers."""
        return Health()

    @router.get("/readyz", response_model=Readiness, responses=documented(503))
    async def is_ready(request: Request) -> Readiness | Response:
        """200 when every process runs and the folds have their partitions; 503 says what is missing."""
        found = await asyncio.to_thread(missing, settings)
        if not found:
            return Readiness()
        return respond(
            request,
            503,
            "NotReady",
            "; ".join(found),
            hint="see `headwater status` and `headwater doctor`",
            errors=[Flaw(where=sentence.partition(" ")[0], what=sentence) for sentence in found],
            headers={"Retry-After": "1"},
        )

    @router.get("/metrics", response_class=PlainTextResponse, responses=documented(401, 403))
    async def get_metrics(caller: Annotated[Caller, Depends(guard.tool)]) -> Response:
        """Every process's metrics in Prometheus' text format; for keys with the scope admin."""
        require(caller, ADMIN)
        text = await asyncio.to_thread(_all_metrics, settings)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        """Where everything is."""
        return HTMLResponse(_INDEX)

    return router


def _all_metrics(settings: Settings) -> str:
    metrics.publish(settings, "serve")  # our own, as of now
    return metrics.merged(settings)
