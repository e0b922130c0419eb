"""JSON lines to events on their way out, for `headwater produce`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import orjson
import typer
from pydantic import ValidationError

from schemas.catalog import event_types
from schemas.codec import explain
from schemas.envelope import parse_time
from schemas.errors import HeadwaterError, InvalidEvent
from schemas.events import Event
from streams.kafka import COMMAND_S
from streams.producing.producer import Options, Outgoing, Producer
from streams.settings import Settings

BATCH = 500
_TEXT_FIELDS = ("key", "project", "id", "correlation_id", "causation_id", "traceparent", "subject", "source")
# CloudEvents attribute names have no underscore; `tail --json` writes them so.
_SPELLED = {"correlationid": "correlation_id", "causationid": "causation_id"}
# What else `tail --json` says: position and producer's key are those of the record it was, the rest is always
# the same.
_IGNORED = (
    "topic",
    "partition",
    "offset",
    "producerkey",
    "clock",
    "replayof",
    "specversion",
    "datacontenttype",
)


class Defaults(NamedTuple):
    """The command's arguments: what holds for each line that does not say otherwise."""

    type: str | None = None
    key: str | None = None
    project: str = "default"
    time: str | None = None
    id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


def one(defaults: Defaults, data: str) -> bytes:
    """The line that `TYPE --data JSON` stands for. Raises InvalidEvent without TYPE."""
    if defaults.type is None:
        raise InvalidEvent("--data needs an event type", hint="headwater produce TYPE --data JSON")
    return data.encode()


def parse(defaults: Defaults, line: bytes) -> tuple[Event, Options]:
    """One line as an event and its options. Raises InvalidEvent saying which field is wrong."""
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON: {error}", hint="one JSON object a line") from error
    if not isinstance(said, dict):
        raise InvalidEvent(
            f"expected a JSON object, not {type(said).__name__}", hint="one JSON object a line"
        )
    if defaults.type is not None:
        said = {"type": defaults.type, "data": said}
    said = {_SPELLED.get(name, name): value for name, value in said.items()}
    unknown = said.keys() - {"type", "data", "time", *_TEXT_FIELDS, *_IGNORED}
    if unknown or "type" not in said or "data" not in said:
        wrong = f"unknown: {', '.join(sorted(unknown))}" if unknown else "`type` or `data` is missing"
        raise InvalidEvent(
            wrong, hint=f"a line has type, data, time, {', '.join(_TEXT_FIELDS)}; or give TYPE"
        )
    return _event(said["type"], said["data"]), _options(defaults, said)


def _event(name: object, data: object) -> Event:
    event_type = event_types().get(name) if isinstance(name, str) else None
    if event_type is None:
        raise InvalidEvent(f"there is no event type {name!r}", hint="`headwater schemas list` names them")
    try:
        return event_type.model_validate(data)
    except ValidationError as error:
        raise InvalidEvent(
            f"{name}: {explain(error)}", hint=f"see `headwater schemas show {name}`"
        ) from error


def _options(defaults: Defaults, said: dict[str, Any]) -> Options:
    options: dict[str, Any] = {}
    for name in _TEXT_FIELDS:
        value = said.get(name, getattr(defaults, name, None))
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidEvent(f"{name}: expected text, not {value!r}", hint="quote it")
        options[name] = value
    time = said.get("time", defaults.time)
    if time is not None:
        options["time"] = _time(time)
    return cast(Options, options)  # the names are those of the table above


def _time(value: object) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            return float(value) if value.replace(".", "", 1).isdigit() else parse_time(value)
    except ValueError as error:
        raise InvalidEvent(f"time: {error}", hint="RFC 3339, or seconds since 1970-01-01 UTC") from error
    raise InvalidEvent(f"time: {value!r} is no time", hint="RFC 3339, or seconds since 1970-01-01 UTC")


async def produce_lines(settings: Settings, defaults: Defaults, lines: Iterable[bytes]) -> None:
    """Write the events of `lines` and print where each is, or for many how many.

    Raises InvalidEvent naming the line; what came before it is written, nothing after.
    """
    written = 0
    producer = Producer(settings, source="cli")
    await producer.start(COMMAND_S)
    async with producer:
        batches = _batches(producer, defaults, lines)
        while True:
            # stdin may be a slow pipe: reading it must not hold up the connection's heartbeat.
            step = await asyncio.to_thread(next, batches, None)
            if step is None:
                break
            batch, error = step
            positions = await producer.emit_many(batch) if batch else []
            for item, position in zip(batch, positions, strict=True):
                if written + len(batch) <= BATCH:
                    typer.echo(
                        f"{position.topic}/{position.partition}@{position.offset}  "
                        f"{item.envelope.type} {item.envelope.id}"
                    )
            written += len(batch)
            if error is not None:
                raise type(error)(f"{error.message}; {written} written before it", hint=error.hint)
    if written > BATCH:
        typer.echo(f"{written:,} events written")
    elif written == 0:
        raise InvalidEvent("no events on standard input", hint="one JSON object a line, or TYPE --data JSON")


def _batches(
    producer: Producer, defaults: Defaults, lines: Iterable[bytes]
) -> Iterator[tuple[list[Outgoing], HeadwaterError | None]]:
    """Events in batches; the last one has the error that ended the reading, if one did."""
    batch: list[Outgoing] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event, options = parse(defaults, line)
            batch.append(producer.outgoing(event, **options))
        except HeadwaterError as error:
            yield batch, InvalidEvent(f"line {number}: {error.message}", hint=error.hint)
            return
        if len(batch) >= BATCH:
            yield batch, None
            batch = []
    if batch:
        yield batch, None
