"""Our own JSON lines: one CloudEvents 1.0 JSON event a line, with Headwater's extension attributes.

`headwater tail --json`, exports and `headwater replay events` share this shape:
`{"specversion": "1.0", "type": …, "id": …, "source": …, "time": …, "project": …, "key": …, "subject": …,
"correlationid": …, "causationid": …, "traceparent": …, "clock": …, "replayof": …, "topic": …,
"partition": …, "offset": …, "producerkey": …, "datacontenttype": "application/json", "data": {…}}`. What is
unknown is left out. Bytes within data (dead letters have some) are base64. Position and producer's key
say what happened to the event, and are not taken over by who writes it anew.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from schemas.catalog import event_types
from schemas.codec import explain
from schemas.envelope import DEFAULT_PROJECT, Envelope, format_time, parse_time
from schemas.errors import InvalidEvent
from schemas.events import Event

_OPTIONAL = (
    ("subject", "subject"),
    ("correlation_id", "correlationid"),
    ("causation_id", "causationid"),
    ("traceparent", "traceparent"),
    ("replay_of", "replayof"),
)
_POSITION = ("topic", "partition", "offset")


class JsonEvent(NamedTuple):
    """What a line says. `key` is None where the line gives none: the event's own is meant."""

    event: Event
    envelope: Envelope
    key: str | None


def to_json_line(
    event: Event,
    envelope: Envelope,
    key: str | None = None,
    position: tuple[str, int, int] | None = None,
    producer_key: str | None = None,
) -> bytes:
    """One event as a line of JSON without its end; `position` is topic, partition and offset.

    `producer_key` is the id of the API key that it came in with.
    """
    line: dict[str, Any] = {
        "specversion": "1.0",
        "type": envelope.type,
        "id": envelope.id,
        "source": envelope.source,
        "time": format_time(envelope.time),
        "project": envelope.project,
    }
    if key is not None:
        line["key"] = key
    for attribute, name in _OPTIONAL:
        value = getattr(envelope, attribute)
        if value is not None:
            line[name] = value
    if envelope.clock != "live":
        line["clock"] = envelope.clock
    if position is not None:
        line.update(zip(_POSITION, position, strict=True))
    if producer_key is not None:
        line["producerkey"] = producer_key
    line["datacontenttype"] = "application/json"
    line["data"] = event.__dict__
    return orjson.dumps(line, default=_base64)


def from_json_line(line: bytes | str) -> JsonEvent:
    """The event of a line; `project` is the default and `clock` live where it says none.

    Raises InvalidEvent: no JSON object, an unknown type, a missing or wrong attribute or field.
    """
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"not JSON: {error}") from error
    if not isinstance(said, dict):
        raise _invalid("not a JSON object")
    name = _text(said, "type")
    event_type = event_types().get(name)
    if event_type is None:
        raise _invalid(f"type: {name!r} is no event type")
    data = said.get("data")
    if not isinstance(data, dict):
        raise _invalid("data: must be a JSON object")
    try:
        event = event_type.model_validate(_with_bytes(event_type, data))
    except ValidationError as error:
        raise _invalid(f"data of {name}: {explain(error)}") from error
    return JsonEvent(event, _envelope(said, name), _text_or_none(said, "key"))


def _envelope(said: dict[str, Any], name: str) -> Envelope:
    clock = _text_or_none(said, "clock") or "live"
    if clock not in ("live", "replay"):
        raise _invalid(f"clock: {clock!r} is neither live nor replay")
    time = _text(said, "time")
    try:
        seconds = parse_time(time)
    except (ValueError, OverflowError) as error:
        raise _invalid(f"time: {time!r} is not an RFC 3339 time") from error
    return Envelope(
        id=_text(said, "id"),
        source=_text(said, "source"),
        type=name,
        time=seconds,
        project=_text_or_none(said, "project") or DEFAULT_PROJECT,
        clock=clock,  # type: ignore[arg-type]  # narrowed by the check above
        **{attribute: _text_or_none(said, attr) for attribute, attr in _OPTIONAL},
    )


def _text(said: dict[str, Any], name: str) -> str:
    value = _text_or_none(said, name)
    if not value:
        raise _invalid(f"{name}: is missing or empty")
    return value


def _text_or_none(said: dict[str, Any], name: str) -> str | None:
    value = said.get(name)
    if value is not None and not isinstance(value, str):
        raise _invalid(f"{name}: must be a string")
    return value


def _invalid(what: str) -> InvalidEvent:
    return InvalidEvent(what, hint="one CloudEvents JSON event a line, see docs/events.md")


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no place in an event")


@cache
def _readers(event_type: type[Event]) -> dict[str, Callable[[Any], Any]]:
    """How to read the fields that hold bytes, by name; few events have one."""
    readers: dict[str, Callable[[Any], Any]] = {}
    for name, field in event_type.model_fields.items():
        if field.annotation in (bytes, bytes | None):
            readers[name] = _bytes
        elif field.annotation == dict[str, bytes]:
            readers[name] = lambda value: (
                {k: _bytes(v) for k, v in value.items()} if isinstance(value, dict) else value
            )
    return readers


def _with_bytes(event_type: type[Event], data: dict[str, Any]) -> dict[str, Any]:
    readers = _readers(event_type)
    if not readers:
        return data
    try:
        return {k: readers[k](v) if k in readers else v for k, v in data.items()}
    except binascii.Error as error:
        raise _invalid(f"data of {event_type.__name__}: not base64: {error}") from error


def _bytes(value: Any) -> Any:
    return b64decode(value, validate=True) if isinstance(value, str) else value
