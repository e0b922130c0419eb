"""JSON lines to events, for `headwater produce`."""

from __future__ import annotations

import json

import pytest

from schemas.errors import InvalidEvent
from schemas.events import MetricReported
from streams.cli.lines import Defaults, one, parse

DATA = {"component": "tool:search", "name": "latency_ms", "value": 12.5, "unit": "ms"}
LINE = {"type": "MetricReported", "data": DATA}


def line(**more: object) -> bytes:
    """A good line, with more or other attributes."""
    return json.dumps(LINE | more).encode()


def test_a_line_is_an_event_with_its_options() -> None:
    """Type, data and every attribute come through; the command's arguments fill what is not said."""
    event, options = parse(
        Defaults(project="p", correlation_id="run-0"), line(key="k", time="2026-11-21T10:00:00Z", id="i")
    )
    assert event == MetricReported(component="tool:search", name="latency_ms", value=12.5, unit="ms")
    assert options == {"project": "p", "correlation_id": "run-0", "key": "k", "id": "i", "time": 1795255200.0}
    assert parse(Defaults(project="p"), line(project="q"))[1]["project"] == "q"


def test_with_a_type_the_line_is_the_fields_alone() -> None:
    """`produce TYPE --data JSON` and `produce TYPE < lines` share one way."""
    defaults = Defaults(type="MetricReported")
    assert parse(defaults, one(defaults, json.dumps(DATA)))[0] == parse(Defaults(), line())[0]
    with pytest.raises(InvalidEvent, match="needs an event type"):
        one(Defaults(), "{}")


def test_what_tail_prints_can_be_produced() -> None:
    """CloudEvents spelling and the record's position are taken as they come."""
    said = {
        "specversion": "1.0",
        "correlationid": "run-1",
        "topic": "agent.metrics",
        "partition": 0,
        "offset": 7,
    }
    _, options = parse(Defaults(), line(**said))
    assert options["correlation_id"] == "run-1"


@pytest.mark.parametrize(
    ("time", "seconds"), [(12, 12.0), (1.5, 1.5), ("12.5", 12.5), ("1970-01-01T00:01:00", 60.0)]
)
def test_time_is_seconds_or_rfc_3339(time: object, seconds: float) -> None:
    """Both forms, as number or text."""
    assert parse(Defaults(), line(time=time))[1]["time"] == seconds


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (b"{", "not JSON"),
        (b"[1]", "expected a JSON object"),
        (b"{}", "`type` or `data` is missing"),
        (line(type="Nothing"), "no event type 'Nothing'"),
        (line(type=3), "no event type 3"),
        (line(data={"component": "c"}), "name: Field required"),
        (line(data=DATA | {"value": "x"}), "value:"),
        (line(data=DATA | {"more": 1}), "more:"),
        (line(data=7), "MetricReported"),
        (line(colour="red"), "unknown: colour"),
        (line(key=7), "key: expected text"),
        (line(time=True), "is no time"),
        (line(time="tomorrow"), "time:"),
    ],
)
def test_a_bad_line_says_what_is_wrong(bad: bytes, named: str) -> None:
    """Each fault has its own message and a hint."""
    with pytest.raises(InvalidEvent, match=named) as caught:
        parse(Defaults(), bad)
    assert caught.value.hint
