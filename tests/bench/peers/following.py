"""Both ends of the benchmark of event streams: `load RATE SECONDS` and `clients URL KEY COUNT SECONDS`.

Each event says its number. The load prints when each was acknowledged, the clients when it came to the
first of them, by the one monotonic clock, and how many came to all of them.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import Producer

from schemas import events as e
from schemas.codec import Codec
from schemas.envelope import Envelope, new_id, to_headers
from schemas.topics import METRICS
from streams.settings import Settings

KEYS = 200
_NUMBER = re.compile(rb'"value":(\d+)\.0')


def load(rate: float, seconds: float) -> None:
    """Metrics at an even rate, each sent at once."""
    settings = Settings()
    codec = Codec()
    producer = Producer(
        {"bootstrap.servers": settings.bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 0}
    )
    topic = settings.named(METRICS.name)
    producer.list_topics(topic, timeout=30)
    acknowledged: dict[int, float] = {}
    begun, sent = time.monotonic(), 0
    while time.monotonic() < begun + seconds:
        due = int((time.monotonic() - begun) * rate)
        while sent < due:
            component, number = f"tool:{sent % KEYS:03d}", sent
            envelope = Envelope(
                id=new_id(), source="bench", type="MetricReported", time=time.time(), subject=component
            )
            event = e.MetricReported(component=component, name="latency_ms", value=float(number), unit="ms")

            def note(error: Any, _: Any, number: int = number) -> None:
                assert error is None, error
                acknowledged[number] = time.monotonic()

            key = f"default/{component}"
            producer.produce(
                topic, codec.encode(event), key, headers=[*to_headers(envelope)], on_delivery=note
            )
            sent += 1
        producer.poll(0.0005)
    producer.flush(30)
    print(json.dumps(acknowledged))


class _Client(asyncio.Protocol):
    """One stream; counts messages, and notes the first one's numbers with their time."""

    def __init__(self, request: bytes, arrived: dict[int, float] | None) -> None:
        self.request, self.arrived, self.messages = request, arrived, 0
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count."""
        now = time.monotonic()
        lines, end, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        self.messages += lines.count(b"event: Metric")
        if self.arrived is not None:
            for number in _NUMBER.findall(lines + end):
                self.arrived[int(number)] = now


def _itself(client: _Client) -> _Client:
    return client


async def clients(url: str, key: str, count: int, seconds: float) -> None:
    """Follow for so long."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    request = (
        f"GET /v1/events HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        "Accept: text/event-stream\r\n\r\n"
    ).encode()
    arrived: dict[int, float] = {}
    loop = asyncio.get_running_loop()
    made = [_Client(request, None if number else arrived) for number in range(count)]
    for client in made:
        await loop.create_connection(partial(_itself, client), address.hostname, address.port)
    await asyncio.sleep(seconds)
    print(json.dumps({"arrived": arrived, "messages": sum(c.messages for c in made)}))


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "load":
        load(float(rest[0]), float(rest[1]))
    else:
        asyncio.run(clients(rest[0], rest[1], int(rest[2]), float(rest[3])))
