from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from schemas import events as e
from schemas.envelope import Envelope
from schemas.errors import InvalidEvent
from streams.replay import from_json_line, to_json_line
from tests.streams.replay.reading import bad_of, good

RUN = e.RunStarted(run_id="r1", agent_id="sofia", task="ünï\n\u2028")
FULL = Envelope(
    id="1",
    source="sdk",
    type="RunStarted",
    time=1_700_000_000.123456,
    project="p",
    subject="sofia",
    correlation_id="r1",
    causation_id="0",
    traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    clock="replay",
    replay_of="anomaly",
)


def envelope(event: e.Event) -> Envelope:
    """A plain envelope of the event."""
    return Envelope(id="1", source="sdk", type=type(event).__name__, time=5.0)


@pytest.mark.parametrize(
    "event",
    [
        RUN,
        e.DeadLetter(
            topic="t",
            partition=0,
            offset=3,
            error_type="X",
            key=b"\xff",
            value=b"",
            headers={"h": b"\x00\xfe"},
        ),
        e.DeadLetter(topic="t", partition=0, offset=3, error_type="X"),
        e.MetricReported(component="c", name="n", value=1e-300),
        e.LlmCallCompleted(
            agent_id="a", call_id="c", provider_name="p", request_model="m", input_tokens=2**63 - 1
        ),
    ],
)
def test_round_trip(event: e.Event) -> None:
    """An event written as a line and read again is the same, bytes within it too."""
    assert from_json_line(to_json_line(event, envelope(event))) == (event, envelope(event), None)


def test_whole_envelope() -> None:
    """Every attribute of the envelope and the key come back; a line is one line."""
    line = to_json_line(RUN, FULL, "k", ("agent.runs", 1, 42), "0123456789ab")
    assert b"\n" not in line
    assert from_json_line(line) == (RUN, FULL, "k")
    said = json.loads(line)
    assert (said["topic"], said["partition"], said["offset"]) == ("agent.runs", 1, 42)
    assert said["producerkey"] == "0123456789ab"


def test_is_cloudevents() -> None:
    """The CloudEvents SDK reads our line as an event of version 1.0 with our data and extensions."""
    line = to_json_line(RUN, FULL, "k", ("agent.runs", 1, 42), "0123456789ab")
    said = JSONFormat().read(CloudEvent, line)
    assert (said.get_id(), said.get_source(), said.get_type()) == ("1", "sdk", "RunStarted")
    assert said.get_data() == RUN.__dict__
    assert said.get_extension("correlationid") == "r1"
    assert said.get_extension("producerkey") == "0123456789ab"


def change(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Sets one attribute."""
    return lambda said: said.update({name: value})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (change("type", "Nonsense"), "type: 'Nonsense' is no event type"),
        (change("type", 3), "type: must be a string"),
        (change("id", ""), "id: is missing or empty"),
        (change("source", None), "source: is missing or empty"),
        (change("time", None), "time: is missing or empty"),
        (change("time", "noon"), "time: 'noon' is not an RFC 3339 time"),
        (change("clock", "wall"), "clock: 'wall' is neither live nor replay"),
        (change("key", 3), "key: must be a string"),
        (change("data", []), "data: must be a JSON object"),
        (change("data", {"run_id": "r"}), "data of RunStarted: agent_id: Field required"),
        (change("data", {"run_id": "r", "agent_id": "a", "x": 1}), "x: Extra inputs are not permitted"),
        (change("data", {"run_id": "", "agent_id": "a"}), "run_id: String should have at least 1"),
    ],
)
def test_malformed(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], reason: str) -> None:
    """A wrong or missing attribute or field is refused by name, and in a file with its line."""
    line = to_json_line(RUN, envelope(RUN))
    said = json.loads(line)
    spoil(said)
    with pytest.raises(InvalidEvent) as caught:
        from_json_line(json.dumps(said))
    assert reason in caught.value.message
    file = tmp_path / "events.jsonl"
    file.write_bytes(line + b"\n\n" + json.dumps(said).encode() + b"\n" + line)
    assert [(number, reason in why) for number, why in bad_of("events", file)] == [(3, True)]


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'"x"', b"\xff", b"NaN", b'{"type": "Tick", "time": "1"}']
)
def test_no_event(line: bytes) -> None:
    """What is no JSON object, or no event, is refused."""
    with pytest.raises(InvalidEvent):
        from_json_line(line)


@pytest.mark.parametrize("field", [{"value": "no base64!"}, {"headers": {"h": 3}}, {"headers": []}])
def test_bytes_that_are_none(field: dict[str, object]) -> None:
    """Bytes that are not base64 are refused."""
    data = {"topic": "t", "partition": 0, "offset": 0, "error_type": "X"} | field
    line = {"type": "DeadLetter", "id": "1", "source": "s", "time": "2020-01-01T00:00:00Z", "data": data}
    with pytest.raises(InvalidEvent):
        from_json_line(json.dumps(line))


def test_files_keep_what_was_said(tmp_path: Path) -> None:
    """Replayed lines keep id, source, time, key and the correlation attributes; files merge by time."""
    for name, seconds in (("a", (1.0, 3.0)), ("b", (2.0,))):
        lines = (
            to_json_line(RUN, Envelope(id=f"{name}{s}", source=name, type="RunStarted", time=s), "k")
            for s in seconds
        )
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "c.jsonl").write_bytes(to_json_line(RUN, FULL))
    recorded = good("events", tmp_path)
    assert [(item.id, item.source, item.time) for item in recorded[:3]] == [
        ("a1.0", "a", 1.0),
        ("b2.0", "b", 2.0),
        ("a3.0", "a", 3.0),
    ]
    last = recorded[3]
    assert (last.correlation_id, last.causation_id, last.traceparent) == ("r1", "0", FULL.traceparent)
    assert (last.subject, last.key) == ("sofia", None)
