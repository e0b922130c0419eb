"""Events a second that one process writes with the SDK, each acknowledged; 300-byte events, a broker of its own.

`python -m tests.bench.bench_produce` prints the figures as JSON. One process makes, checks, encodes, compresses and
sends the events; the broker has the other core. `events_per_s` is from the model to the acknowledgement: the models
are made before the clock starts and given again and again, each time with an id and a time of their own.
`models_included` makes the models while the clock runs, as an agent does. `transport_alone` is librdkafka with the
same guarantees, given finished records: keys, values and headers that were made before the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import Producer as Librdkafka

from schemas import events as e
from schemas.envelope import to_headers
from schemas.topics import TOOL_CALLS
from streams.admin import ensure_topics
from streams.broker import Broker
from streams.producing.batch import COMPRESSION
from streams.sdk import Headwater
from streams.settings import Settings
from tests.bench.figures import figure, middle, quantiles
from tests.conftest import free_base_port

ROUNDS = 3
SECONDS = 2.0
WARM_S = 2.0
BATCH = 1000
TASKS = 4
AGENTS = 200
SINGLES = 500
RUN = "run-1"
MUST_EVENTS_PER_S = 40_000
AIM_EVENTS_PER_S = 80_000
_WORDS = (
    "agent",
    "tool",
    "search",
    "result",
    "flight",
    "hotel",
    "price",
    "error",
    "retry",
    "the",
    "of",
    "to",
)
Write = Callable[[], Awaitable[object]]
"""Writes BATCH events and waits until they are acknowledged."""


def run() -> dict[str, Any]:
    """Figures: events/s in batches, µs of this process's CPU an event, latency of single events in ms."""
    return asyncio.run(_run())


async def _run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), port=free_base_port())
        broker = Broker(settings)
        await broker.start()
        try:
            await ensure_topics(settings)
            async with Headwater(settings) as hw:
                return await _measured(hw, settings)
        finally:
            await broker.stop()


async def _measured(hw: Headwater, settings: Settings) -> dict[str, Any]:
    ready, codec = events(), await hw.producer.codec()
    fields = [event.model_dump() for event in ready]
    records: list[tuple[bytes, str, Any]] = []
    for event in ready:
        item = hw.outgoing(event, correlation_id=RUN)
        records.append((codec.encode(event), f"default/{item.key}", to_headers(item.envelope)))
    topic = settings.named(TOOL_CALLS.name)
    librdkafka = Librdkafka(
        {
            "bootstrap.servers": settings.bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": COMPRESSION,
            "linger.ms": 5,
        }
    )
    failures: list[object] = []

    def acknowledged(error: object, _: object) -> None:
        if error is not None:
            failures.append(error)

    async def transport() -> None:
        for value, key, headers in records:
            librdkafka.produce(topic, value, key, headers=headers, on_delivery=acknowledged)
        librdkafka.poll(0)

    async def delivered() -> None:
        librdkafka.flush()
        assert not failures, failures[0]

    ways: dict[str, tuple[Write, int]] = {
        "from_model": (lambda: hw.emit_many(ready, correlation_id=RUN), TASKS),
        "models_included": (
            lambda: hw.emit_many([e.ToolCallCompleted(**f) for f in fields], correlation_id=RUN),
            TASKS,
        ),
        "transport_alone": (transport, 1),
    }
    await _many(*ways["from_model"], WARM_S)  # the broker's JIT
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            found[name].append(await _many(*way, SECONDS, delivered))
    rates = {name: middle([rate for rate, _ in rounds]) for name, rounds in found.items()}
    cpu = {name: middle([us for _, us in rounds]) for name, rounds in found.items()}
    return {
        "events_per_s": figure(
            rates["from_model"], "events/s", must=MUST_EVENTS_PER_S, aim=AIM_EVENTS_PER_S, least=True
        ),
        "rounds": {name: [round(rate) for rate, _ in rounds] for name, rounds in found.items()},
        "models_included": figure(rates["models_included"], "events/s"),
        "transport_alone": figure(rates["transport_alone"], "events/s"),
        "cpu_per_event": {name: figure(us, "µs") for name, us in cpu.items()},
        "value_bytes": round(sum(len(value) for value, _, _ in records) / len(records)),
        "batch": BATCH,
        "tasks": TASKS,
        "single_latency_ms": await _one_by_one(hw),
    }


def events(seed: int = 7) -> list[e.Event]:
    """Tool calls whose record value is about 300 bytes, of many agents."""
    rnd = Random(seed)
    return [
        e.ToolCallCompleted(
            agent_id=f"agent-{rnd.randrange(AGENTS)}",
            tool_name=rnd.choice(["web_search", "calendar", "booking"]),
            call_id=f"call-{rnd.getrandbits(64):016x}",
            result=" ".join(rnd.choices(_WORDS, k=45)),
            latency_ms=rnd.expovariate(0.01),
        )
        for _ in range(BATCH)
    ]


async def _nothing() -> None:
    """Whoever waits for acknowledgements itself has nothing left to wait for."""


async def _many(
    write: Write, tasks: int, seconds: float, delivered: Callable[[], Awaitable[None]] = _nothing
) -> tuple[float, float]:
    """Several tasks write batches for a while: events/s, and µs of CPU an event."""
    written = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal written
        while time.perf_counter() < end:
            await write()
            written += BATCH

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(tasks)))
    await delivered()
    return written / (time.perf_counter() - began), (time.process_time() - cpu) / written * 1e6


async def _one_by_one(hw: Headwater) -> dict[str, float]:
    """One task that waits for each acknowledgement: its latency is what an agent waits."""
    took = []
    for event in events()[:SINGLES]:
        began = time.perf_counter()
        await hw.emit(event)
        took.append((time.perf_counter() - began) * 1000)
    return quantiles(took)


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
