"""Debian's kcat shows keys, headers and positions."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

from streams.sdk import Headwater
from streams.settings import Settings
from tests.conftest import skip_or_fail


async def test_keys_and_headers(settings: Settings) -> None:
    """They are text, as docs/events.md says; the value is Avro in Confluent's framing."""
    kcat = shutil.which("kcat") or shutil.which("kafkacat")
    if kcat is None:
        skip_or_fail("kcat is not installed")
    async with Headwater(settings, project="acme", source="kcat-test") as hw:
        sent = await hw.metric("tool:kcat", "latency_ms", 12.5)
    run = await asyncio.to_thread(
        subprocess.run,
        [
            *(str(kcat), "-b", settings.bootstrap, "-C", "-e", "-q"),
            *("-t", settings.named(sent.topic), "-p", str(sent.partition), "-o", str(sent.offset), "-c", "1"),
            *("-f", r"%t|%p|%o|%k|%h|%R|%s\n"),
        ],
        capture_output=True,
        timeout=30,
        check=True,
    )
    topic, partition, offset, key, headers, rest = run.stdout.split(b"|", 5)
    assert (topic.decode(), int(partition), int(offset)) == (
        settings.named("agent.metrics"), sent.partition, sent.offset,
    )  # fmt: skip
    assert key == b"acme/tool:kcat"
    told = dict(one.split("=", 1) for one in headers.decode().split(","))
    assert told["ce_id"] == sent.id
    assert told["ce_type"] == "MetricReported"
    assert told["ce_source"] == "kcat-test"
    assert told["ce_project"] == "acme"
    assert told["ce_subject"] == "tool:kcat"
    assert told["content-type"] == "application/avro"
    # %R is the value's length in front of it, four bytes; then the zero byte and the schema's id.
    assert rest[4:5] == b"|"
    assert rest[5:6] == b"\x00"
