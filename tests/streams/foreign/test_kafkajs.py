"""Node's kafkajs with its schema registry client."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import httpx

from schemas.events import MessagePosted, MetricReported
from schemas.topics import ANOMALIES, MESSAGES, SIGNALS
from streams.producing.batch import COMPRESSION
from streams.sdk import Headwater
from streams.settings import Settings
from tests.streams.foreign.conftest import events_of, eventually
from tests.streams.instances import until

Script = Callable[..., subprocess.CompletedProcess[str]]
SERIES = [10.0 + i * 7 % 3 for i in range(100)] + [500.0] * 20
TOPIC = "agent.metrics"


async def emit(settings: Settings, count: int) -> None:
    """Write messages by the SDK, in batches that it compresses."""
    async with Headwater(settings) as hw:
        await hw.emit_many(
            [MessagePosted(agent_id="js", role="user", content=f"number {i}") for i in range(count)]
        )


async def test_it_reads_what_the_sdk_compressed(settings: Settings, kafkajs: Script) -> None:
    """With a decoder of zstd; and as a group it goes on where it was."""
    assert COMPRESSION == "zstd"
    await emit(settings, 50)
    run = kafkajs("read", settings.named("js"), "50", settings.named(MESSAGES.name))
    assert run.returncode == 0, run.stderr
    records = [json.loads(line) for line in run.stdout.splitlines()]
    assert [r["value"]["content"] for r in records] == [f"number {i}" for i in range(50)]
    assert {r["key"] for r in records} == {"default/js"}
    assert {r["headers"]["ce_type"] for r in records} == {"MessagePosted"}
    await emit(settings, 5)
    further = kafkajs("read", settings.named("js"), "5", settings.named(MESSAGES.name))
    assert further.returncode == 0, further.stderr
    seen = [json.loads(line) for line in further.stdout.splitlines()]
    assert [r["offset"] for r in seen] == [records[-1]["offset"] + 1 + i for i in range(5)]


async def test_it_reads_what_folds_wrote(settings: Settings, kafkajs: Script, http: httpx.Client) -> None:
    """Derived topics, which transactions wrote."""
    async with Headwater(settings) as hw:
        await hw.emit_many(
            [MetricReported(component="tool:js", name="latency_ms", value=value) for value in SERIES]
        )
    until(lambda: http.get("/v1/anomalies", params={"component": "tool:js"}).json()["items"], 30)
    for topic, kind, count in ((SIGNALS, "Signal", len(SERIES)), (ANOMALIES, "AnomalyDetected", 1)):
        run = kafkajs("read", settings.named(f"js-{topic.name}"), str(count), settings.named(topic.name))
        assert run.returncode == 0, run.stderr
        records = [json.loads(line) for line in run.stdout.splitlines()]
        assert len(records) == count
        assert {r["headers"]["ce_type"] for r in records} == {kind}
        assert all(r["value"]["component"] for r in records)


async def test_without_a_decoder_it_says_what_is_missing(settings: Settings, kafkajs: Script) -> None:
    """What docs/events.md says of it: it has none of its own for zstd."""
    await emit(settings, 20)
    run = kafkajs("read", settings.named("js-bare"), "1", settings.named(MESSAGES.name), WITHOUT_ZSTD="1")
    assert run.returncode == 1
    assert "ZSTD compression not implemented" in run.stderr


def test_it_writes_what_folds_take(settings: Settings, kafkajs: Script, http: httpx.Client) -> None:
    """An event with a key that is not ours is counted under its component."""
    data = {"component": "tool:from-js", "name": "latency_ms", "value": 12.5, "unit": "ms", "agent_id": None}
    run = kafkajs("write", settings.named(TOPIC), "MetricReported", "any key", json.dumps(data))
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["topicName"] == settings.named(TOPIC)
    assert eventually(http, "/v1/components/tool:from-js")["signals"] == 1
    (event,) = events_of(http, TOPIC, "tool:from-js")
    assert event["source"] == "kafkajs"
