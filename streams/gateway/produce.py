"""POST /v1/events: one event or many in, an answer for each; accepted is what Kafka has acknowledged."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from projections.access import Caller, Forbidden, require
from projections.position import encode
from projections.problem import documented
from schemas.errors import HeadwaterError
from streams.gateway.auth import Guard
from streams.gateway.body import BodyTooLarge, media_type, read_json
from streams.gateway.document import POSTED, reference
from streams.gateway.items import outgoing
from streams.gateway.outcomes import Accepted, Answer, Refused, problem_of, respond
from streams.keys import PRODUCE
from streams.keys.scopes import topics_of
from streams.producing.outgoing import Position, Prepared
from streams.producing.producer import Producer, Unacknowledged

MAX_ITEMS = 10_000
MIN_BODY_BYTES = 16 * 1024 * 1024
ONE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_TURN = 128


@dataclass
class _Batch:
    """Items on their way: each has a place in `outcomes`; those well so far are in `sent` as well."""

    path: str
    outcomes: list[Accepted | Refused | None]
    single: bool
    sent: list[Prepared] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    warnings: list[list[str]] = field(default_factory=list)

    def refuse(self, index: int, error: HeadwaterError, id_: str | None = None) -> None:
        """Say why an item is not in the log."""
        self.outcomes[index] = Refused(
            index=index, id=id_, problem=problem_of(error, self.path, index, single=self.single)
        )

    def accept(self, place: int, position: Position) -> None:
        """Say where the event is that was sent in this place."""
        index = self.places[place]
        self.outcomes[index] = Accepted(
            index=index,
            id=self.sent[place].id,
            **position._asdict(),
            position=encode({position.topic: {position.partition: position.offset + 1}}),
            warnings=self.warnings[place],
        )


async def accept(
    body: object, caller: Caller, request: Request, producer: Producer
) -> list[Accepted | Refused]:
    """Check every item, send the good ones, say what came of each. Bad items change nothing."""
    values = body if isinstance(body, list) else [body]
    batch = _Batch(request.url.path, [None] * len(values), single=not isinstance(body, list))
    for index, value in enumerate(values):
        if index % _TURN == _TURN - 1:
            await asyncio.sleep(0)  # a long list must not hold up other requests
        try:
            item, warnings = outgoing(value, caller, request.state.correlation_id, request.state.traceparent)
            prepared = await producer.prepare(item)
        except HeadwaterError as error:
            if isinstance(error, Forbidden):
                request.state.refused = error.reason
            batch.refuse(index, error, _id_of(value))
            continue
        batch.sent.append(prepared)
        batch.places.append(index)
        batch.warnings.append(warnings)
    await _send(batch, producer)
    outcomes = [o for o in batch.outcomes if o is not None]
    assert len(outcomes) == len(values)
    return outcomes


async def _send(batch: _Batch, producer: Producer) -> None:
    positions: Sequence[Position | None]
    failure: HeadwaterError | None = None
    try:
        positions = await producer.send(batch.sent)
    except Unacknowledged as error:
        positions, failure = error.positions, error
    for place, position in enumerate(positions):
        if position is not None:
            batch.accept(place, position)
        else:
            assert failure is not None
            batch.refuse(batch.places[place], failure, batch.sent[place].id)


def _id_of(value: object) -> str | None:
    given = value.get("id") if isinstance(value, dict) else None
    return given if isinstance(given, str) else None


def routes(producer: Producer, guard: Guard) -> APIRouter:
    """The route of producing."""
    router = APIRouter(tags=["events"])
    limit = max(MIN_BODY_BYTES, 4 * producer.settings.max_record_bytes)

    @router.post(
        "/v1/events",
        response_model=Answer,
        responses=_ANSWERS,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def post_events(request: Request, caller: Annotated[Caller, Depends(guard.caller)]) -> Response:
        """Write one event, or a list of up to 10,000.

        Each item has its own answer; a refused one changes nothing and holds nothing up. Sending an
        item again with the same id (and source) is safe: it counts once.
        """
        if not topics_of(caller.scopes):
            require(caller, PRODUCE)
        kind = media_type(request, ("application/json", ONE, BATCH))
        body = await read_json(request, limit)
        _check_shape(body, kind)
        outcomes = await accept(body, caller, request, producer)
        return respond(outcomes, request.url.path, single=not isinstance(body, list))

    return router


class BadBody(HeadwaterError):
    """A body is JSON, and neither an event nor a list of events."""


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
    207: {"model": Answer, "description": "Some were accepted: see each item."},
    **documented(400, 401, 403, 413, 415, 422, 503, 507),
}
