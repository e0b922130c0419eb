"""POST /v1/events: one event or many in, an answer for each; accepted is what Kafka has acknowledged."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from projections.access import Caller, require
from projections.problem import documented
from schemas.errors import HeadwaterError
from streams.gateway.auth import Guard
from streams.gateway.batch import check, send
from streams.gateway.body import BodyTooLarge, media_type, parse_json, read_body, said_length
from streams.gateway.document import POSTED, RATE_LIMIT, reference
from streams.gateway.outcomes import Answer, respond
from streams.gateway.quotas import Quotas
from streams.gateway.shares import Shares
from streams.keys import PRODUCE
from streams.keys.scopes import topics_of
from streams.producing.producer import Producer

MAX_ITEMS = 10_000
MIN_BODY_BYTES = 16 * 1024 * 1024
ONE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


def routes(producer: Producer, guard: Guard, quotas: Quotas) -> APIRouter:
    """The route of producing."""
    router = APIRouter(tags=["events"])
    limit = max(MIN_BODY_BYTES, 4 * producer.settings.max_record_bytes)
    shares = Shares(producer, limit)

    @router.post(
        "/v1/events",
        response_model=Answer,
        responses=_ANSWERS,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def post_events(request: Request, caller: Annotated[Caller, Depends(guard.caller)]) -> Response:
        """Write one event, or a list of up to 10,000.

        Each item has its own answer; a refused one changes nothing and holds nothing up. Sending an
        item again with the same id (and source) is safe: it counts once. Over the key's or the
        project's quota the whole request is refused with 429, and `Retry-After` says until when.
        """
        if not topics_of(caller.scopes):
            require(caller, PRODUCE)
        kind = media_type(request, ("application/json", ONE, BATCH))
        share = shares.of(caller)
        try:
            await quotas.patience(caller)
            async with share.body(said_length(request, limit)):
                content = await read_body(request, limit)
                async with share.turn:
                    quotas.check(caller)  # others of this key were here meanwhile
                    body = _counted(content, kind, caller, quotas)
                    batch = await check(body, caller, request, producer)
                outcomes = await send(batch, producer, share.records)
        finally:
            request.state.headers = quotas.headers(caller)
        return respond(outcomes, request.url.path, single=batch.single)

    return router


class BadBody(HeadwaterError):
    """A body is JSON, and neither an event nor a list of events."""


def _counted(content: bytearray, kind: str, caller: Caller, quotas: Quotas) -> object:
    """The body, once its events and bytes are counted. Raises NotJson, BadBody or BodyTooLarge."""
    try:
        body = parse_json(content)
        _check_shape(body, kind)
    except HeadwaterError:
        quotas.take(caller, 1, len(content))  # it cost no less to read
        raise
    quotas.take(caller, len(body) if isinstance(body, list) else 1, len(content))
    return body


def _check_shape(body: object, kind: str) -> None:
    if not isinstance(body, dict if kind == ONE else dict | list):
        raise BadBody("the body is not an event: expected a JSON object", hint="nothing was written")
    if kind == BATCH and not isinstance(body, list):
        raise BadBody("the body is no batch: expected a JSON list", hint=f"nothing was written; {ONE} is one")
    if isinstance(body, list) and not body:
        raise BadBody("the list is empty", hint="send at least one event")
    if isinstance(body, list) and len(body) > MAX_ITEMS:
        raise BodyTooLarge(
            f"{len(body):,} events at once, the limit is {MAX_ITEMS:,}",
            hint="nothing was written; send fewer events at once",
        )


_MANY = {"type": "array", "items": reference(POSTED), "minItems": 1, "maxItems": MAX_ITEMS}
_EXAMPLE = {
    "type": "MetricReported",
    "data": {"component": "tool:search", "name": "latency_ms", "value": 12.5, "unit": "ms"},
}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"anyOf": [reference(POSTED), _MANY]}, "example": _EXAMPLE},
        ONE: {"schema": reference(POSTED)},
        BATCH: {"schema": _MANY},
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"headers": RATE_LIMIT},
    207: {"model": Answer, "description": "Some were accepted: see each item.", "headers": RATE_LIMIT},
    **documented(400, 401, 403, 408, 413, 415, 422, 429, 503, 507),
}
_ANSWERS[429]["headers"] |= RATE_LIMIT
