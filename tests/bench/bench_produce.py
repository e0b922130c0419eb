"""Events a second that one producer writes, each acknowledged; 300-byte events, a broker of its own.

`python -m tests.bench.bench_produce` prints the figures as JSON. One process and one core make the
events, check, encode, compress and send them; the broker has the other core.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from schemas import events as e
from streams.admin import ensure_topics
from streams.broker import Broker
from streams.producing.outgoing import prepare
from streams.producing.producer import Producer
from streams.settings import Settings
from tests.bench.figures import figure, quantiles
from tests.conftest import free_base_port

SECONDS = 5.0
BATCH = 1000
TASKS = 4
AGENTS = 200
SINGLES = 500
_TEXTS = 500
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
AIM_EVENTS_PER_S = 40_000


def run() -> dict[str, Any]:
    """Figures: events/s in batches, µs of the producer's CPU an event, latency of single events in ms."""
    return asyncio.run(_run())


async def _run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), port=free_base_port())
        broker = Broker(settings)
        await broker.start()
        try:
            await ensure_topics(settings)
            async with Producer(settings) as producer:
                await _many(producer, 1.0)  # warm the broker's JIT
                batched = await _many(producer, SECONDS)
                singles = await _one_by_one(producer)
        finally:
            await broker.stop()
    return {**batched, **singles}


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
        for _ in range(_TEXTS)
    ]


async def _many(producer: Producer, seconds: float) -> dict[str, Any]:
    """Several tasks write batches for a while; event objects are made anew, as an agent makes them."""
    fields = [event.model_dump() for event in events()]
    written = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal written
        while time.perf_counter() < end:
            items = [
                producer.outgoing(e.ToolCallCompleted(**fields[i % _TEXTS]), correlation_id="run-1")
                for i in range(BATCH)
            ]
            await producer.emit_many(items)
            written += BATCH

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    took = time.perf_counter() - began
    value = prepare(producer.outgoing(events()[0], correlation_id="run-1"), await producer.codec())
    return {
        "events_per_s": figure(written / took, "events/s", aim=AIM_EVENTS_PER_S, least=True),
        "cpu_per_event": figure((time.process_time() - cpu) / written * 1e6, "µs"),
        "value_bytes": len(value.value),
        "batch": BATCH,
        "tasks": TASKS,
    }


async def _one_by_one(producer: Producer) -> dict[str, Any]:
    """One task that waits for each acknowledgement: its latency is what an agent waits."""
    took = []
    for event in events()[:SINGLES]:
        began = time.perf_counter()
        await producer.emit(event)
        took.append((time.perf_counter() - began) * 1000)
    return {"single_latency_ms": quantiles(took)}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
