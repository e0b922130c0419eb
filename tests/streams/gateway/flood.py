"""Two clients of one door: one sends as fast as it can and minds no refusal, one sends an event now and then.

`python -m tests.streams.gateway.flood URL KEY SECONDS CONNECTIONS EVENTS` is the first, in a process
of its own; it prints what it was answered as JSON. `calm` is the second.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

EVENT = {
    "type": "MetricReported",
    "data": {"component": "tool:search", "name": "latency_ms", "value": 1.5, "unit": "ms"},
}
EVERY_S = 0.05


class Calm(NamedTuple):
    """What the calm client was answered: seconds from when each event was due, and other statuses than 200."""

    latencies_s: list[float]
    refused: dict[int, int]


async def calm(url: str, key: str, seconds: float) -> Calm:
    """One event every 50 ms, whether or not the one before is answered, so that waiting hides nothing."""
    latencies: list[float] = []
    refused: Counter[int] = Counter()
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        await client.post("/v1/events", json=EVENT)

        async def send(due: float) -> None:
            answer = await client.post("/v1/events", json=EVENT)
            latencies.append(time.perf_counter() - due)
            if answer.status_code != 200:
                refused[answer.status_code] += 1

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds / EVERY_S)):
                due = began + number * EVERY_S
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(send(due))
    return Calm(latencies, dict(refused))


class Flood(NamedTuple):
    """What the flood was answered: requests by status, and how long it took."""

    answers: dict[str, int]
    seconds: float


@contextmanager
def flooding(
    url: str, key: str, seconds: float, connections: int, events: int
) -> Iterator[subprocess.Popen[str]]:
    """While the flood runs; its answer is for `outcome`."""
    arguments = [url, key, str(seconds), str(connections), str(events)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.streams.gateway.flood", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def outcome(process: subprocess.Popen[str]) -> Flood:
    """How it went, once it is over."""
    out, _ = process.communicate(timeout=120)
    return Flood(**json.loads(out))


async def _send(host: str, port: int, request: bytes, end: float, answers: Counter[str]) -> None:
    """One connection's requests, without a client library: a flood must not be slowed by itself."""
    reader, writer = await asyncio.open_connection(host, port)
    while time.monotonic() < end:
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r")[0]
            await reader.readexactly(int(length))
            answers[head[9:12].decode()] += 1
        except (OSError, asyncio.IncompleteReadError):
            answers["disconnected"] += 1
            reader, writer = await asyncio.open_connection(host, port)
    writer.close()


async def _flood(url: str, key: str, seconds: float, connections: int, events: int) -> None:
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    body = json.dumps([EVENT] * events).encode()
    request = (
        f"POST /v1/events HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    answers: Counter[str] = Counter()
    began = time.monotonic()
    end = began + seconds
    sending = (_send(address.hostname, address.port, request, end, answers) for _ in range(connections))
    await asyncio.gather(*sending)
    print(json.dumps(Flood(answers, time.monotonic() - began)._asdict()))


if __name__ == "__main__":
    _url, _key, *_numbers = sys.argv[1:]
    asyncio.run(_flood(_url, _key, float(_numbers[0]), int(_numbers[1]), int(_numbers[2])))
