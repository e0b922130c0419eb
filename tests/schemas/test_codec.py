"""Events to bytes and back, by this version's schema and by every earlier one."""

from __future__ import annotations

import json
import struct
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import events as e
from schemas.avro_models import avro_schema
from schemas.catalog import by_subject
from schemas.codec import Codec, Record
from schemas.envelope import Envelope, to_headers
from schemas.errors import DecodeError, InvalidEvent, RecordTooLarge
from schemas.registry import Registered, Registry, load
from tests.schemas.samples import events_of

CODEC = Codec()
METRIC = e.MetricReported(component="tool:x", name="latency_ms", value=1.5, unit="ms")


def framed(fields: dict[str, Any], model: type[e.Event], **changed: Any) -> bytes:
    """A value as a careless producer writes it: right framing, no checks."""
    registered = load().named(model.__name__)[-1]
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, registered.parsed, fields | changed)
    return struct.pack(">bI", 0, registered.id) + buffer.getvalue()


def record(value: bytes | None, key: bytes | None = b"p/k", headers: Any = ()) -> Record:
    """A record at agent.metrics/1 offset 7, written at 1000 s."""
    return Record("agent.metrics", 1, 7, 1000.0, key, value, headers)


@pytest.mark.parametrize("model", e.EVENT_TYPES, ids=lambda m: m.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_event_comes_back(model: type[e.Event], data: st.DataObject) -> None:
    """Any valid event of any type is the same after encoding and decoding, and encodes to the same bytes again."""
    event = data.draw(events_of(model))
    value = CODEC.encode(event)
    assert CODEC.decode(value) == event
    assert CODEC.encode(CODEC.decode(value)) == value
    assert CODEC.event_type(value) is model


def test_the_framing_is_confluents() -> None:
    """A zero byte, the schema's id in four bytes, most significant first, then plain Avro."""
    value = CODEC.encode(METRIC)
    registered = load().named("MetricReported")[-1]
    assert value[:5] == b"\x00" + registered.id.to_bytes(4, "big")
    assert fastavro.schemaless_reader(BytesIO(value[5:]), registered.parsed, None) == METRIC.model_dump()


@pytest.mark.parametrize("registered", load().by_id.values(), ids=lambda r: f"{r.name}.v{r.version}")
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_every_committed_version_is_readable(registered: Registered, data: st.DataObject) -> None:
    """What any earlier version of the code wrote is decoded to an event of today."""
    event = data.draw(events_of(by_subject()[registered.subject]))
    written = {
        field["name"]: getattr(event, field["name"], None) for field in registered.definition["fields"]
    }
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, registered.parsed, written)
    decoded = CODEC.decode(struct.pack(">bI", 0, registered.id) + buffer.getvalue())
    known = {k: v for k, v in written.items() if k in by_subject()[registered.subject].model_fields}
    assert decoded.model_dump(include=set(known)) == known


def test_an_older_version_is_resolved() -> None:
    """A record of a version without a field is read with that field's default, one of the newest as it is."""
    newest = avro_schema(e.AgentRetired)
    oldest = newest | {"fields": [f for f in newest["fields"] if f["name"] != "reason"]}
    two = Codec(
        Registry(
            [
                Registered(4, "headwater.AgentRetired", 1, oldest),
                Registered(9, "headwater.AgentRetired", 2, newest),
            ]
        )
    )
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(oldest), {"agent_id": "a"})
    assert two.decode(b"\x00\x00\x00\x00\x04" + buffer.getvalue()) == e.AgentRetired(agent_id="a", reason="")
    event = e.AgentRetired(agent_id="a", reason="done")
    assert two.encode(event)[:5] == b"\x00\x00\x00\x00\x09"
    assert two.decode(two.encode(event)) == event


async def test_a_newer_version_is_adopted() -> None:
    """Once its schema is told, what a newer producer writes is read, without the fields that are not known here."""
    codec, newer = Codec(), avro_schema(e.AgentRetired)
    newer = newer | {"fields": [*newer["fields"], {"name": "where", "type": "string"}]}
    buffer = BytesIO()
    fields = {"agent_id": "a", "reason": "done", "where": "here"}
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(newer), fields)
    value = struct.pack(">bI", 0, 100_001) + buffer.getvalue()
    await codec.learn([Record("agent.lifecycle", 0, 0, 0.0, None, value, ())])
    assert not codec.knows(100_001)
    with pytest.raises(DecodeError, match="unknown schema id 100001"):
        codec.decode(value)
    codec.adopt(Registered(100_001, "headwater.AgentRetired", 0, newer))
    assert codec.knows(100_001)
    event = e.AgentRetired(agent_id="a", reason="done")
    assert codec.decode(value) == event
    own = codec.registry.named("AgentRetired")[-1].id
    codec.adopt(Registered(own, "headwater.AgentRetired", 0, newer))
    assert codec.decode(codec.encode(event)) == event


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "wrong framing"),
        (b"", "wrong framing"),
        (b"\x00\x00\x00", "wrong framing"),
        (b"\x01" + CODEC.encode(METRIC)[1:], "wrong framing"),
        (json.dumps({"component": "x"}).encode(), "wrong framing"),
        (b"\x00\x00\x01\x00\x00x", "unknown schema id 65536"),
        (CODEC.encode(METRIC)[:-4], "MetricReported: not readable as Avro"),
        (CODEC.encode(METRIC) + b"\x00", "1 bytes left after the event"),
        (
            framed(METRIC.model_dump(), e.MetricReported, value=float("nan")),
            "value: Input should be a finite number",
        ),
        (
            framed(METRIC.model_dump(), e.MetricReported, value=float("inf")),
            "value: Input should be a finite number",
        ),
        (
            framed(METRIC.model_dump(), e.MetricReported, name=""),
            "name: String should have at least 1 character",
        ),
        (
            framed(METRIC.model_dump(), e.MetricReported, component="x" * 300),
            "component: String should have at most 256",
        ),
        (
            framed({"agent_id": "a", "role": "robot", "content": ""}, e.MessagePosted),
            "role: Input should be 'system', 'user', 'assistant' or 'agent'",
        ),
        (
            framed({"agent_id": "a", "load": -1.0, "version": "1"}, e.AgentHeartbeat),
            "load: Input should be greater",
        ),
    ],
)
def test_what_is_no_event_is_refused(value: bytes | None, said: str) -> None:
    """Each kind of bad value has an answer that names what is wrong, and where."""
    with pytest.raises(DecodeError) as caught:
        CODEC.decode(value)
    assert said in caught.value.message
    assert caught.value.hint


@given(st.binary(max_size=60))
def test_garbage_never_raises_anything_else(body: bytes) -> None:
    """Any bytes behind any known schema id are an event or a DecodeError."""
    for id_ in CODEC.registry.by_id:
        try:
            CODEC.decode(struct.pack(">bI", 0, id_) + body)
        except DecodeError as error:
            assert error.message  # noqa: PT017 - most bytes are an error, some are an event


def test_too_large_is_refused_whole() -> None:
    """An event above the limit raises, saying both sizes; dead letters, which wrap a record, have no limit."""
    small = Codec(max_record_bytes=1000)
    event = e.MessagePosted(agent_id="a", role="user", content="x" * 1000)
    with pytest.raises(RecordTooLarge, match=r"takes 1,0\d\d bytes, the limit is 1,000"):
        small.encode(event)
    assert small.decode(small.encode(event, limited=False)) == event


def test_an_unregistered_type_is_refused() -> None:
    """An event class of a user's own, without a committed schema, cannot be written."""

    class Unknown(e.Event):
        """Not in the registry."""

    with pytest.raises(InvalidEvent, match="Unknown is declared nowhere"):
        CODEC.encode(Unknown())


def test_a_foreign_record_is_an_event_too() -> None:
    """Without CloudEvents headers the position is the id, the broker's time the time, the schema the type."""
    decoded = CODEC.decode_record(record(CODEC.encode(METRIC), key=None))
    assert decoded.key == ""
    assert decoded.envelope == Envelope(
        id="agent.metrics-1-7", source="kafka:agent.metrics", type="MetricReported", time=1000.0
    )


def test_headers_come_back() -> None:
    """An envelope is the same after a round trip through record headers."""
    envelope = Envelope(
        id="a",
        source="s",
        type="MetricReported",
        time=1234.567891,
        project="p",
        subject="tool:x",
        correlation_id="run",
        causation_id="b",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        clock="replay",
        replay_of="anomaly",
    )
    assert (
        CODEC.decode_record(record(CODEC.encode(METRIC), headers=to_headers(envelope))).envelope == envelope
    )


@pytest.mark.parametrize(
    ("key", "headers", "said"),
    [
        (b"\xff", [], "key is not UTF-8"),
        (
            b"k",
            [("ce_type", b"RunStarted")],
            "header ce_type says RunStarted, the schema id says MetricReported",
        ),
        (b"k", [("ce_time", b"noon")], "bad CloudEvents header"),
        (b"k", [("ce_clock", b"moon")], "ce_clock is b'moon'"),
        (b"k", [("ce_id", b"\xff")], "bad CloudEvents header"),
    ],
)
def test_bad_keys_and_headers_are_refused(key: bytes, headers: Any, said: str) -> None:
    """A key or header that makes no sense is a DecodeError that says which."""
    with pytest.raises(DecodeError) as caught:
        CODEC.decode_record(record(CODEC.encode(METRIC), key, headers))
    assert said in caught.value.message
