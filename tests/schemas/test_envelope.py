"""The envelope's headers are CloudEvents: their own SDK reads ours, and we read what it writes."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent, EventFactory
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary
from cloudevents.core.formats.base import Format
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import (
    PRODUCER_KEY,
    Envelope,
    derived_id,
    format_time,
    from_headers,
    name_in,
    new_id,
    parse_time,
    producer_key,
    to_headers,
)
from schemas.errors import DecodeError

POSITION: dict[str, Any] = {"topic": "agent.metrics", "partition": 3, "offset": 42}
AT = POSITION | {"timestamp": 1234.5}
# No control characters, no surrogates: what RFC 3629 and CloudEvents' String type leave.
text = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
microseconds = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999).map(lambda us: us / 1e6)
moments = microseconds.filter(lambda s: -62_135_596_800 <= s <= 253_402_300_799)
envelopes = st.builds(
    Envelope,
    id=text,
    source=text,
    type=text,
    time=moments,
    project=text,
    subject=st.none() | text,
    correlation_id=st.none() | text,
    causation_id=st.none() | text,
    traceparent=st.none() | st.just(f"00-{'a' * 32}-{'b' * 16}-01"),
    clock=st.sampled_from(["live", "replay"]),
    replay_of=st.none() | text,
)


class Opaque(Format):
    """Leaves the record's value as it is: it is Avro."""

    def read(self, event_factory: EventFactory | None, data: str | bytes) -> BaseCloudEvent:
        """Not needed for binary mode."""
        raise NotImplementedError

    def write(self, event: BaseCloudEvent) -> bytes:
        """Not needed for binary mode."""
        raise NotImplementedError

    def write_data(self, data: Any, datacontenttype: str | None) -> bytes:
        """As it is."""
        return bytes(data)

    def read_data(self, body: bytes, datacontenttype: str | None) -> Any:
        """As it is."""
        return body

    def get_content_type(self) -> str:
        """Not needed for binary mode."""
        raise NotImplementedError


@given(envelopes)
def test_their_sdk_reads_ours(envelope: Envelope) -> None:
    """Every envelope is a valid CloudEvent to the SDK, attribute for attribute."""
    message = KafkaMessage(headers=dict(to_headers(envelope)), key="acme/k", value=b"\x00avro")
    event = from_binary(message, Opaque(), CloudEvent)
    assert event.get_specversion() == "1.0"
    assert (event.get_id(), event.get_source(), event.get_type()) == (
        envelope.id,
        envelope.source,
        envelope.type,
    )
    assert event.get_subject() == envelope.subject
    assert event.get_datacontenttype() == "application/avro"
    at = event.get_time()
    assert at is not None
    assert format_time(envelope.time) == at.astimezone(UTC).isoformat(timespec="microseconds").replace(
        "+00:00", "Z"
    )
    assert event.get_extension("project") == envelope.project
    assert event.get_extension("correlationid") == envelope.correlation_id
    assert event.get_extension("causationid") == envelope.causation_id
    assert event.get_data() == b"\x00avro"


@given(text, text, text, st.datetimes(timezones=st.just(UTC)), st.none() | text, st.none() | text)
def test_we_read_theirs(
    id_: str, source: str, type_: str, at: datetime, subject: str | None, correlation_id: str | None
) -> None:
    """A CloudEvent that the SDK writes in binary mode is the envelope that it says."""
    attributes = {"id": id_, "source": source, "type": type_, "time": at, "specversion": "1.0"}
    attributes |= {"datacontenttype": "application/avro"}
    if subject is not None:
        attributes["subject"] = subject
    if correlation_id is not None:
        attributes["correlationid"] = correlation_id
    message = to_binary(CloudEvent(attributes, b"x"), Opaque())
    envelope = from_headers(message.headers.items(), **AT)
    assert (envelope.id, envelope.source, envelope.type) == (id_, source, type_)
    assert (envelope.subject, envelope.correlation_id) == (subject, correlation_id)
    assert envelope.time == at.timestamp()


@given(envelopes)
def test_headers_round_trip(envelope: Envelope) -> None:
    """What was written is read, the time to the microsecond."""
    assert from_headers(to_headers(envelope), **AT).id == envelope.id
    again = from_headers(to_headers(envelope), **AT)
    assert abs(again.time - envelope.time) < 2e-6 + abs(envelope.time) * 1e-15
    assert to_headers(again) == to_headers(envelope)


@given(envelopes, st.sets(st.sampled_from(["ce_id", "ce_source", "ce_project", "ce_replayof"])))
def test_the_name_alone(envelope: Envelope, missing: set[str]) -> None:
    """Read alone, an event's name is that of the whole envelope, whatever a foreign producer left out."""
    headers = [(name, value) for name, value in to_headers(envelope) if name not in missing]
    whole = from_headers(headers, **AT)
    alone = name_in(headers, **POSITION)
    assert alone == (whole.name if whole.replay_of is None else None)


def test_attribute_names_are_cloudevents_names() -> None:
    """CloudEvents allows lower-case letters and digits alone."""
    full = Envelope(
        id="i",
        source="s",
        type="t",
        time=0.0,
        subject="s",
        correlation_id="c",
        causation_id="c",
        clock="replay",
        replay_of="f",
    )
    for name, _ in to_headers(full):
        assert name == "content-type" or re.fullmatch("ce_[a-z0-9]+", name)


@given(envelopes, st.none() | text | st.binary())
def test_the_producers_key_is_beside_the_envelope(envelope: Envelope, key: str | bytes | None) -> None:
    """The header of an API key changes nothing of the envelope, is a CloudEvents attribute, and is read alone."""
    headers = to_headers(envelope)
    if key is not None:
        headers.append((PRODUCER_KEY, key.encode() if isinstance(key, str) else key))
    assert from_headers(headers, **AT) == from_headers(to_headers(envelope), **AT)
    expected = key.decode(errors="replace") if isinstance(key, bytes) else key
    assert producer_key(headers) == expected
    assert re.fullmatch("ce_[a-z0-9]+", PRODUCER_KEY)


def test_a_record_without_headers() -> None:
    """A foreign record is named by its position, and its time is the broker's."""
    envelope = from_headers([], **AT)
    assert (envelope.id, envelope.source) == ("agent.metrics-3-42", "kafka:agent.metrics")
    assert (envelope.time, envelope.project, envelope.type) == (1234.5, "default", "")


def test_a_source_without_an_id_does_not_name_an_event() -> None:
    """The position is unique under the topic's name only, so the given source is not kept with it."""
    assert from_headers([("ce_source", b"shop")], **AT).source == "kafka:agent.metrics"


@pytest.mark.parametrize(
    ("name", "value"),
    [("ce_time", b"yesterday"), ("ce_id", b"\xff"), ("ce_clock", b"sundial"), ("traceparent", b"\xff")],
)
def test_senseless_headers_are_refused(name: str, value: bytes) -> None:
    """DecodeError, so that the record becomes a dead letter with its reason."""
    with pytest.raises(DecodeError, match="CloudEvents"):
        from_headers([("ce_id", b"1"), (name, value)], **AT)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970-01-01T00:00:00", 0.0),
        ("1970-01-01T00:00:00.5Z", 0.5),
        ("1969-12-31T23:59:59Z", -1.0),
    ],
)
def test_times(given: str, seconds: float) -> None:
    """RFC 3339; without a zone it is UTC."""
    assert parse_time(given) == seconds


def test_new_ids_sort_by_time() -> None:
    """UUIDv7: version and variant, the millisecond first, and no two alike."""
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for id_ in ids:
        assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id_)
        assert before <= int(id_[:13].replace("-", ""), 16) <= time.time_ns() // 1_000_000


def test_derived_ids_keep_their_parts_apart() -> None:
    """The same parts give the same id; parts that join to the same text do not."""
    assert derived_id("a", 1) == derived_id("a", "1")
    assert derived_id("ab", "c") != derived_id("a", "bc")


def test_a_forked_process_makes_ids_of_its_own() -> None:
    """Randomness is asked for in stock, and none of the stock is used on both sides of a fork."""
    new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(new_id()[14:] for _ in range(50)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 50 * 22
    assert not {theirs[at : at + 22] for at in range(0, len(theirs), 22)} & {
        new_id()[14:] for _ in range(300)
    }
