"""`produce` and `tail` against a real broker, as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from msgspec.structs import replace

from schemas.codec import Codec, Record
from schemas.envelope import Envelope, to_headers
from schemas.errors import ConfigurationError
from schemas.events import MessagePosted
from streams.cli.times import parse_since
from streams.cli.watch import line
from streams.producing.producer import Producer
from streams.settings import Settings
from streams.tail import Shown

METRIC = {"component": "tool:cli", "name": "latency_ms", "value": 1.5}


def headwater(
    settings: Settings, *arguments: str, stdin: str = "", code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the command; it has to end with `code`."""
    environment = os.environ | {"HEADWATER_DATA": str(settings.data), "HEADWATER_PORT": str(settings.port)}
    run = subprocess.run(
        [sys.executable, "-m", "streams", *arguments],
        input=stdin, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stderr
    return run


def test_one_event_from_arguments_is_in_the_log(broker: Settings) -> None:
    """`produce TYPE --data` prints where it is; `tail --json` shows it there; it can be produced again."""
    out = headwater(
        broker,
        "produce",
        "MetricReported",
        "--data",
        json.dumps(METRIC),
        "--project",
        "cli-1",
        "--correlation",
        "r1",
    ).stdout
    place, _, rest = out.partition("  ")
    topic, _, position = place.partition("/")
    partition, _, offset = position.partition("@")
    tail = ("tail", "agent.metrics", "--json", "--no-follow", "--project", "cli-1")
    shown = headwater(broker, *tail).stdout
    said = json.loads(shown)
    assert (said["topic"], said["partition"], said["offset"]) == (topic, int(partition), int(offset))
    assert said["id"] == rest.split()[1]
    assert said["correlationid"] == "r1"
    assert said["data"]["value"] == 1.5
    headwater(broker, "produce", stdin=shown)
    assert len(headwater(broker, *tail).stdout.splitlines()) == 2


async def test_tail_says_which_key_wrote_an_event(broker: Settings) -> None:
    """`tail --json` has the API key's id; what is produced from that line was not written with that key."""
    event = MessagePosted(agent_id="a", role="user", content="x")
    async with Producer(broker) as producer:
        item = producer.outgoing(event, project="cli-3")
        await producer.emit_many([replace(item, producer_key="0123456789ab")])
    tail = ("tail", "agent.messages", "--json", "--no-follow", "--project", "cli-3")
    shown = headwater(broker, *tail).stdout
    assert json.loads(shown)["producerkey"] == "0123456789ab"
    headwater(broker, "produce", stdin=shown)
    first, second = sorted(headwater(broker, *tail).stdout.splitlines(), key=len)
    assert "producerkey" in json.loads(second)
    assert "producerkey" not in json.loads(first)


def test_many_lines_are_written_up_to_the_bad_one(broker: Settings) -> None:
    """The bad line is named; what is before it is written, what is after it is not."""
    lines = [json.dumps({"type": "MetricReported", "data": METRIC | {"value": n}}) for n in range(5)]
    lines[3] = '{"type": "MetricReported", "data": {"component": "x"}}'
    run = headwater(broker, "produce", "--project", "cli-2", stdin="\n".join(lines), code=1)
    assert "line 4" in run.stderr
    assert "3 written before it" in run.stderr
    shown = headwater(broker, "tail", "--json", "--no-follow", "--project", "cli-2", "agent.metrics").stdout
    assert sorted(json.loads(one)["data"]["value"] for one in shown.splitlines()) == [0, 1, 2]
    assert "no events on standard input" in headwater(broker, "produce", code=1).stderr


def test_derived_events_cannot_be_produced(broker: Settings) -> None:
    """What folds alone may write is refused with a reason."""
    data = {"topic": "t", "partition": 0, "after_offset": 0, "at": 1.0}
    run = headwater(broker, "produce", "Tick", "--data", json.dumps(data), code=1)
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


def test_dead_letters_of_an_empty_log_are_none(broker: Settings) -> None:
    """The list is read from the log."""
    assert json.loads(headwater(broker, "dead-letters", "list", "--json", "--project", "nobody").stdout) == []


def test_a_line_for_a_person_has_no_control_characters() -> None:
    """What an agent wrote cannot move the cursor or break the line; long values are cut."""
    event = MessagePosted(agent_id="a\x1b[2J", role="agent", content="one\ntwo\x1b[31m" + "x" * 500)
    envelope = Envelope(id="i", source="s", type="MessagePosted", time=time.time(), correlation_id="r")
    record = Record(
        "agent.messages", 0, 5, 0.0, b"default/a\x1b", Codec().encode(event), to_headers(envelope)
    )
    text = line(Codec().decode_record(record), Shown(record, None)).plain
    assert text.isprintable()
    assert "run=r" in text
    assert "agent.messages/0@5" in text
    assert len(text) < 400


def test_since_is_a_span_or_a_time() -> None:
    """10m is ten minutes ago; anything else has to be RFC 3339."""
    ago = parse_since("10m")
    assert ago is not None
    assert abs(time.time() - 600 - ago) < 5
    assert parse_since("1970-01-01T00:00:10Z") == 10.0
    assert parse_since(None) is None
    with pytest.raises(ConfigurationError, match="yesterday"):
        parse_since("yesterday")
