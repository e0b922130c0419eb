"""Who, when and why of an event: the CloudEvents 1.0 Kafka binding (binary mode) as record headers.

Written by hand because the SDK's binding costs 11 µs to encode and 18 to decode an event; a test
proves conformance with the SDK.
"""

from __future__ import annotations

import os
import time as _time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from math import floor
from typing import Literal

import msgspec

from schemas.errors import DecodeError

DEFAULT_PROJECT = "default"
CONTENT_TYPE = "application/avro"
Headers = Sequence[tuple[str, bytes]]
Clock = Literal["live", "replay"]
Name = tuple[str, str, str]
"""Project, source and id of an event."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of one event. `time` is event time, seconds since 1970-01-01 UTC (microsecond steps).

    (project, source, id) names an event: the same three twice are one event delivered twice.
    `clock` says whether the event's project lives in real time or in that of its data.
    """

    id: str
    source: str
    type: str
    time: float
    project: str = DEFAULT_PROJECT
    subject: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    clock: Clock = "live"
    replay_of: str | None = None
    """Set on a dead letter's replay: the one fold that this record is addressed to."""

    @property
    def name(self) -> Name:
        """What tells this event from all others."""
        return self.project, self.source, self.id


PRODUCER_KEY = "ce_producerkey"
"""Id of the API key that the event came in with, set by the doors. It is no part of the envelope: folds have no
use for it, and would pay for reading it."""
FOLD_VERSION = "ce_foldversion"
"""Version of the fold that made the event; for whoever wants to know, and no part of the envelope either."""
_CLOCKS: dict[bytes, Clock] = {b"live": "live", b"replay": "replay"}
_HEADERS_HINT = "see docs/events.md for the headers"


@lru_cache(maxsize=4096)
def _header(name: str, value: str) -> tuple[str, bytes]:
    """One header; those that repeat from event to event are made once."""
    return name, value.encode()


@lru_cache(maxsize=4096)
def shared_headers(source: str, type_: str, project: str) -> Headers:
    """The headers that all events of one type, source and project share."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", type_.encode()),
        ("ce_project", project.encode()),
        ("content-type", CONTENT_TYPE.encode()),
    )


def to_headers(envelope: Envelope) -> list[tuple[str, bytes]]:
    """The record headers of an event."""
    return [*shared_headers(envelope.source, envelope.type, envelope.project), *own_headers(envelope)]


def own_headers(envelope: Envelope) -> list[tuple[str, bytes]]:
    """The headers of an event beside those that it shares with others."""
    headers = [
        ("ce_id", envelope.id.encode()),
        ("ce_time", format_time(envelope.time).encode()),
    ]
    if envelope.clock != "live":
        headers.append(_header("ce_clock", envelope.clock))
    if envelope.subject is not None:
        headers.append(_header("ce_subject", envelope.subject))
    if envelope.correlation_id is not None:
        headers.append(_header("ce_correlationid", envelope.correlation_id))
    if envelope.causation_id is not None:
        headers.append(("ce_causationid", envelope.causation_id.encode()))
    if envelope.traceparent is not None:
        headers.append(("traceparent", envelope.traceparent.encode()))
    if envelope.replay_of is not None:
        headers.append(_header("ce_replayof", envelope.replay_of))
    return headers


def from_headers(
    headers: Iterable[tuple[str, bytes]], *, topic: str, partition: int, offset: int, timestamp: float
) -> Envelope:
    """The envelope of a record.

    What a foreign producer left out is taken from the record: its position is its id, the broker's
    timestamp (seconds) its time. Raises DecodeError where a header is there and makes no sense.
    """
    get = dict(headers).get
    type_, time, subject, traceparent = get("ce_type"), get("ce_time"), get("ce_subject"), get("traceparent")
    correlation, causation, replay_of = get("ce_correlationid"), get("ce_causationid"), get("ce_replayof")
    clock = get("ce_clock", b"live")
    if clock not in _CLOCKS:
        raise DecodeError(
            f"bad CloudEvents header: ce_clock is {clock!r}, expected live or replay", hint=_HEADERS_HINT
        )
    try:
        project, source, id_ = _name(get, topic, partition, offset)
        return Envelope(
            id=id_,
            source=source,
            type=type_.decode() if type_ else "",
            time=parse_time(time.decode()) if time else timestamp,
            project=project,
            subject=subject.decode() if subject else None,
            correlation_id=correlation.decode() if correlation else None,
            causation_id=causation.decode() if causation else None,
            traceparent=traceparent.decode() if traceparent else None,
            clock=_CLOCKS[clock],
            replay_of=replay_of.decode() if replay_of else None,
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise DecodeError(f"bad CloudEvents header: {error}", hint=_HEADERS_HINT) from error


def name_in(headers: Iterable[tuple[str, bytes]], *, topic: str, partition: int, offset: int) -> Name | None:
    """The name that `from_headers` gives, in a third of the time; None where the event is addressed to one fold.

    Raises UnicodeDecodeError.
    """
    get = dict(headers).get
    return None if get("ce_replayof") else _name(get, topic, partition, offset)


def producer_key(headers: Iterable[tuple[str, bytes]]) -> str | None:
    """Id of the API key that an event came in with; None where it came through no door."""
    for name, value in headers:
        if name == PRODUCER_KEY:
            return value.decode(errors="replace")
    return None


def _name(get: Callable[[str], bytes | None], topic: str, partition: int, offset: int) -> Name:
    id_, source, project = get("ce_id"), get("ce_source"), get("ce_project")
    return (
        project.decode() if project else DEFAULT_PROJECT,
        source.decode() if source and id_ else f"kafka:{topic}",
        id_.decode() if id_ else f"{topic}-{partition}-{offset}",
    )


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """The second, which a stream of events repeats."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


_THREE_DIGITS = [f"{number:03d}" for number in range(1000)]


def format_time(seconds: float) -> str:
    """RFC 3339, UTC, microseconds."""
    whole = floor(seconds)
    micros = round((seconds - whole) * 1e6)  # exact: both are floats of the same scale
    if micros == 1_000_000:
        whole, micros = whole + 1, 0
    return f"{_second(whole)}.{_THREE_DIGITS[micros // 1000]}{_THREE_DIGITS[micros % 1000]}Z"


def parse_time(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; one without a zone is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def new_id() -> str:
    """A UUIDv7 (RFC 9562): sorts by time of making. The standard library has one from 3.14."""
    r = random_digits()
    return f"{_id_start(_time.time_ns() // 1_000_000)}{r[:3]}-{_VARIANT[r[3]]}{r[4:7]}-{r[7:19]}"


@lru_cache(maxsize=16)
def _id_start(milliseconds: int) -> str:
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"


def random_digits() -> str:
    """Twenty random hexadecimal digits of the operating system, which is asked for many at a time."""
    while True:
        try:
            return _digits.pop()
        except IndexError:
            many = os.urandom(10 * _DIGITS_AT_ONCE).hex()
            _digits.extend([many[i : i + 20] for i in range(0, len(many), 20)])


_DIGITS_AT_ONCE = 256
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""Two bits of a digit are fixed in a UUID."""
_digits: list[str] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_digits.clear)  # parent and child would give the same ids


def derived_id(*parts: str | int) -> str:
    """An id made of its cause, so that the same input gives the same output: 128 bits of BLAKE2b."""
    return blake2b("\x00".join(map(str, parts)).encode(), digest_size=16).hexdigest()
