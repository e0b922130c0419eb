"""One item of a POST: a CloudEvent in JSON, checked, as an event on its way out."""

from __future__ import annotations

import time
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from msgspec.structs import replace
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from projections.access import Caller, own_project
from projections.problem import Flaw
from schemas.catalog import event_types, raw, subject_of
from schemas.envelope import Clock, parse_time
from schemas.errors import InvalidEvent
from schemas.events import Event
from streams.folding.engine import CLAMP_S
from streams.gateway.auth import require_produce
from streams.producing.outgoing import PROJECT, TRACEPARENT, Outgoing, address, another_span, raw_topic_of

SOURCE = "http"
# Printable: control characters would break headers, logs and PostgreSQL's text.
Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Item(BaseModel):
    """An event as a CloudEvent in JSON. Attributes that are not known are refused, not dropped."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    type: Annotated[str, Field(max_length=256, description="Event type, such as `ToolCallCompleted`.")]
    data: Annotated[dict[str, Any], Field(description="The event's own fields; see its schema.")]
    id: Annotated[
        Text | None,
        Field(description="Give one to send again safely: (project, source, id) counts once. Else a UUIDv7."),
    ] = None
    source: Annotated[Text, Field(description="Who made the event.")] = SOURCE
    time: Annotated[
        str | None,
        Field(
            max_length=64,
            description="RFC 3339; without a zone: UTC. Else now.",
            json_schema_extra={"format": "date-time"},
        ),
    ] = None
    subject: Annotated[Text | None, Field(description="Else the event's own key.")] = None
    key: Annotated[Text | None, Field(description="The record's key. Else the event's own.")] = None
    correlationid: Annotated[
        Text | None,
        Field(
            validation_alias=AliasChoices("correlationid", "correlation_id"),
            description="The run's id. Else the request's `X-Correlation-Id`.",
        ),
    ] = None
    causationid: Annotated[
        Text | None,
        Field(
            validation_alias=AliasChoices("causationid", "causation_id"),
            description="Id of the event that caused this one.",
        ),
    ] = None
    traceparent: Annotated[
        str | None,
        Field(
            description="W3C. Else a child of the request's.",
            json_schema_extra={"pattern": f"^{TRACEPARENT.pattern}$"},
        ),
    ] = None
    project: Annotated[
        str | None,
        Field(
            description="For the administrator's key.",
            json_schema_extra={"pattern": f"^{PROJECT.pattern}$"},
        ),
    ] = None
    clock: Annotated[Clock, Field(description="replay: the project lives in the time of its data.")] = "live"
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: Literal["application/json"] = "application/json"

    @field_validator("time")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_time(value)
            except OverflowError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("traceparent", "project")
    @classmethod
    def _is_well_formed(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Not Field(pattern=…): pydantic's regular expressions have no lookahead.
        form = TRACEPARENT if info.field_name == "traceparent" else PROJECT
        if value is not None and not form.fullmatch(value):
            raise ValueError(f"does not match {form.pattern}")
        return value


class Flawed(InvalidEvent):
    """An item breaks its model; `flaws` say where, relative to the item, and what."""

    def __init__(self, message: str, flaws: list[Flaw], hint: str) -> None:
        super().__init__(message, hint=hint)
        self.flaws = flaws


def raw_types() -> list[str]:
    """Names of the event types that anybody may write."""
    return sorted(event.__name__ for topic in raw() for event in topic.events)


def outgoing(
    value: object, caller: Caller, correlation_id: str, traceparent: str
) -> tuple[Outgoing, list[str]]:
    """The event of one item with its envelope and the caller's key, and warnings.

    Raises Flawed, InvalidEvent or Forbidden.
    """
    try:
        item = Item.model_validate(value)
    except ValidationError as error:
        flaws = [_flaw(e) for e in error.errors(include_url=False)]
        raise _flawed("the item", flaws, "see POST /v1/events in /docs") from error
    project = own_project(caller, item.project)
    event = _event(item, caller)
    at = None if item.time is None else parse_time(item.time)
    sent = address(
        event,
        item.source,
        {
            "project": project,
            "key": item.key,
            "id": item.id,
            "time": at,
            "correlation_id": item.correlationid or correlation_id,
            "causation_id": item.causationid,
            "traceparent": item.traceparent or another_span(traceparent),
            "clock": item.clock,
            "subject": item.subject,
        },
    )
    return replace(sent, producer_key=caller.key), _warnings(item, at)


def _event(item: Item, caller: Caller) -> Event:
    event_type = event_types().get(item.type)
    if event_type is None:
        near = get_close_matches(item.type, raw_types(), 3, 0.5)
        flaw = Flaw(where="type", what=f"there is no event type {item.type!r}")
        hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(raw_types())}"
        raise Flawed(flaw.what, [flaw], hint)
    require_produce(caller, raw_topic_of(event_type).name)
    try:
        # Strict: "12" is no number and true no count; who meant it so should say it so.
        return event_type.model_validate(item.data, strict=True)
    except ValidationError as error:
        flaws = [_flaw(e, "data") for e in error.errors(include_url=False)]
        hint = f"see GET /registry/subjects/{subject_of(event_type)}/versions/latest"
        raise _flawed(item.type, flaws, hint) from error


def _warnings(item: Item, at: float | None) -> list[str]:
    ahead = 0.0 if at is None or item.clock != "live" else at - time.time()
    if ahead <= CLAMP_S:
        return []
    return [f"time is {ahead:,.0f} s ahead: it is kept, and counts as {CLAMP_S:,.0f} s ahead of the broker's"]


def _flaw(error: Any, *prefix: str) -> Flaw:
    where = ".".join(map(str, (*prefix, *error["loc"])))
    if error["type"] == "extra_forbidden":
        known = [*Item.model_fields] if not prefix else []
        near = get_close_matches(str(error["loc"][-1]), known, 1)
        return Flaw(where=where, what="is not known" + (f"; did you mean {near[0]}?" if near else ""))
    return Flaw(where=where, what=error["msg"])


def _flawed(what: str, flaws: list[Flaw], hint: str) -> Flawed:
    listed = "; ".join(f"{f.where or 'item'}: {f.what}" for f in flaws)
    return Flawed(f"{what}: {listed}", flaws, hint)
