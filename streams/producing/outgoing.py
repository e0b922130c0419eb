"""An event on its way out: checked, with its envelope, and as the record that will be written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from time import time as _now
from typing import NamedTuple, TypedDict

import msgspec

from schemas.codec import Codec
from schemas.envelope import PRODUCER_KEY, Clock, Envelope, new_id, own_headers, random_digits, shared_headers
from schemas.errors import HeadwaterError, InvalidEvent, RecordTooLarge
from schemas.events import Event
from schemas.topics import INBOX, Topic, key_of, topic_of
from streams.producing.batch import body, packed

MAX_METADATA_BYTES = 16 * 1024
"""Key and headers of one record, together."""
PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TIME_RANGE = (-62_135_596_800.0, 253_402_300_799.0)  # the years 1 to 9999
_RECORD_OVERHEAD_BYTES = 512


class Position(NamedTuple):
    """Where a record stands in the log; `topic` without namespace."""

    topic: str
    partition: int
    offset: int


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """An event with its envelope and key, ready to be sent. `key` is without the project.

    `producer_key` is the id of the API key that it came in with; None: it did not come through a door.
    """

    event: Event
    envelope: Envelope
    key: str
    producer_key: str | None = None


class Options(TypedDict, total=False):
    """What may be said of an event beside its data; everything has a default.

    `time` is event time in seconds since 1970 UTC, now by default; `key` and `subject` are the
    event's own key by default; `id` is a new UUIDv7; `source` is the producer's.
    """

    project: str
    key: str | None
    id: str | None
    time: float | None
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    clock: Clock
    subject: str | None
    source: str | None


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """An event as the record that will be written; `body` is all of it but its place in a batch."""

    id: str
    topic: str
    key: bytes
    body: bytes

    @property
    def cost(self) -> int:
        """What it takes of the budget, in bytes."""
        return len(self.body) + _RECORD_OVERHEAD_BYTES


def address(event: Event, source: str, options: Options) -> Outgoing:
    """The event with its envelope. Raises InvalidEvent."""
    return addressing(source, options)(event)


def addressing(source: str, options: Options, *, spans: bool = False) -> Callable[[Event], Outgoing]:
    """What gives the events of one call their envelopes. It raises InvalidEvent, as this does.

    With `spans` each event is a span of its own beside that of the options' traceparent.
    """
    project, clock = options.get("project", "default"), options.get("clock", "live")
    source = options.get("source") or source
    id_, time, key = options.get("id"), options.get("time"), options.get("key")
    subject, traceparent = options.get("subject"), options.get("traceparent")
    correlation_id, causation_id = options.get("correlation_id"), options.get("causation_id")
    _check(project, time, traceparent)

    def addressed(event: Event) -> Outgoing:
        own_key = key_of(event)
        envelope = Envelope(
            id=id_ or new_id(),
            source=source,
            type=type(event).__name__,
            time=_now() if time is None else time,
            project=project,
            subject=own_key if subject is None else subject,
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=another_span(traceparent) if spans and traceparent else traceparent,
            clock=clock,
        )
        return Outgoing(event, envelope, own_key if key is None else key)

    return addressed


def another_span(traceparent: str) -> str:
    """A traceparent with a span of its own in the same trace."""
    return f"{traceparent[:36]}{random_digits()[:16]}{traceparent[52:]}"


def raw_topic_of(event_type: type[Event]) -> Topic:
    """The topic that producers may write this type to; raises InvalidEvent where they may not."""
    topic = topic_of(event_type)
    if topic.kind != "raw":
        raise InvalidEvent(
            f"{event_type.__name__} is written by Headwater alone: topic {topic.name} is {topic.kind}",
            hint="emit an event of a raw topic (`headwater topics list`)",
        )
    return topic


def prepare(item: Outgoing, codec: Codec) -> Prepared:
    """The record of an event that producers may write. Raises InvalidEvent or RecordTooLarge."""
    return _prepared(item, raw_topic_of(type(item.event)).name, codec)


def prepare_control(item: Outgoing, codec: Codec) -> Prepared:
    """The record of an event that a door of ours writes. Raises RecordTooLarge."""
    topic = topic_of(type(item.event))
    assert topic.kind == "control"
    return _prepared(item, topic.name, codec)


def prepare_inbox(item: Outgoing, codec: Codec) -> Prepared:
    """The record of an assignment's copy. Raises RecordTooLarge."""
    return _prepared(item, INBOX.name, codec)


def _prepared(item: Outgoing, topic: str, codec: Codec) -> Prepared:
    event, envelope = item.event, item.envelope
    try:
        key_bytes = f"{envelope.project}/{item.key}".encode()
        headers = own_headers(envelope)
        if item.producer_key is not None:
            headers.append((PRODUCER_KEY, item.producer_key.encode()))
        value = codec.encode(event)
        record = body(key_bytes, value, headers, *_shared(envelope.source, envelope.type, envelope.project))
    except HeadwaterError:
        raise
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise InvalidEvent(
            f"{type(event).__name__} cannot be written: {error}",
            hint="make events by their constructor, which checks them",
        ) from error
    metadata = len(record) - len(value)
    if metadata > MAX_METADATA_BYTES:
        raise RecordTooLarge(
            f"key and headers of {type(event).__name__} take {metadata:,} bytes, "
            f"the limit is {MAX_METADATA_BYTES:,}",
            hint="shorten key, ids and subject",
        )
    return Prepared(envelope.id, topic, key_bytes, record)


@lru_cache(maxsize=4096)
def _shared(source: str, type_: str, project: str) -> tuple[bytes, int]:
    headers = shared_headers(source, type_, project)
    return packed(headers), len(headers)


def _check(project: str, time: float | None, traceparent: str | None) -> None:
    if not PROJECT.fullmatch(project):
        raise InvalidEvent(
            f"project {project!r} is not a name", hint="1 to 128 of letters, digits, '.', '_' and '-'"
        )
    if time is not None and not (math.isfinite(time) and _TIME_RANGE[0] <= time <= _TIME_RANGE[1]):
        raise InvalidEvent(f"time {time!r} is not a time", hint="seconds since 1970-01-01 UTC")
    if traceparent is not None and not TRACEPARENT.fullmatch(traceparent):
        raise InvalidEvent(
            f"traceparent {traceparent!r} is not valid", hint="W3C: 00-<32 hex>-<16 hex>-<2 hex>"
        )
