"""How fast views follow the log, and how fast a run is found by its correlation id among a million events.

On SQLite, and on PostgreSQL where it is installed (a throwaway server with default settings, but fsync off).
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
from fastapi import FastAPI

from projections.access import Caller
from projections.api import create_router
from projections.catalog import views
from projections.position import Position
from projections.problem import install
from projections.store import Store
from projections.view import Place
from schemas import events as e
from schemas.codec import Codec, Record
from schemas.envelope import Envelope, new_id, to_headers
from schemas.topics import SIGNALS, key_of, topic_of
from streams.views.source import BATCH_RECORDS, Decoder
from tests.bench.figures import figure
from tests.postgres import Cluster, installed

EVENTS = 1_000_000
PROJECTED = 100_000
QUERIES = 2_000
STEPS_OF_A_RUN = 20
BEGIN = 1_700_000_000.0


def run(events: int = EVENTS, projected: int = PROJECTED, queries: int = QUERIES) -> dict[str, Any]:
    """Figures as JSON values: events a second by view (decoded and applied), query latency in ms."""
    found: dict[str, Any] = {"rows": events}
    with tempfile.TemporaryDirectory() as folder:
        found["sqlite"] = _measure(f"sqlite:///{Path(folder) / 'views.sqlite'}", events, projected, queries)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        found["sqlite"]["database_mb"] = round(size / 1e6)
    programs = installed()
    if programs is None:
        return found | {"postgresql": "not installed"}
    cluster = Cluster(programs)
    try:
        cluster.make()
        found["postgresql"] = _measure(cluster.url(), events, projected, queries)
        with cluster.admin() as admin:
            (size,) = admin.execute("SELECT pg_database_size('headwater')").fetchone() or (0,)
        found["postgresql"]["database_mb"] = round(size / 1e6)
    finally:
        cluster.remove()
    return found


def _measure(url: str, events: int, projected: int, queries: int) -> dict[str, Any]:
    store = Store(url, views())
    store.prepare()
    bounds: dict[str, Any] = (
        {"must": 15_000, "aim": 40_000, "least": True} if url.startswith("sqlite") else {}
    )
    counts = {"components": projected, "agents": projected, "runs": projected, "events": events}
    speeds = {
        name: figure(rate, "events/s", **bounds) | {"undisturbed_cpu_us_an_event": cpu_us}
        for name, count in counts.items()
        for rate, cpu_us in [_project(store, name, count)]
    }
    latency = asyncio.run(_ask(store, events, queries))
    store.close()
    return {"views": speeds, "by_correlation_id": latency}


def _project(store: Store, name: str, count: int) -> tuple[float, float]:
    """Decode and apply `count` records to one view; making them is not counted.

    Events a second, and the CPU that an event took (microseconds) in the least disturbed tenth of the
    batches: on a machine that others use, too, only that can be compared.
    """
    codec = Codec()
    decoder = Decoder(codec, keep_bytes=0)
    generation, _ = store.live(name)
    keyed = name in ("components", "agents")
    ends: Counter[Place] = Counter()
    spent = 0.0
    cpu: list[float] = []
    for start in range(0, count, BATCH_RECORDS):
        records = list(_records(codec, start, min(BATCH_RECORDS, count - start), ends, keyed=keyed))
        began, cpu_began = time.perf_counter(), time.process_time()
        entries, bad = decoder.entries(records)
        end = {(r.topic, r.partition): r.offset + 1 for r in records}
        refused = store.apply(name, generation, entries, {}, end)
        spent += time.perf_counter() - began
        cpu.append((time.process_time() - cpu_began) / len(records) * 1e6)
        assert not bad
        assert not refused
    return count / spent, round(sorted(cpu)[len(cpu) // 10], 1)


def _records(codec: Codec, start: int, count: int, ends: Counter[Place], *, keyed: bool) -> Iterator[Record]:
    """Steps of runs, or signals, as they stand in the log, which ends there so far."""
    for number in range(start, start + count):
        event = _signal(number) if keyed else _step(number)
        at = BEGIN + number / 100
        envelope = Envelope(
            id=new_id(),
            source="bench",
            type=type(event).__name__,
            time=at,
            correlation_id=_run(number),
        )
        topic = SIGNALS if keyed else topic_of(type(event))
        key = f"default/{key_of(event)}".encode()
        # By key, and without gaps, as in Kafka: a view's history goes by places.
        place = topic.name, crc32(key) % 8
        yield Record(*place, ends[place], at, key, codec.encode(event), to_headers(envelope))
        ends[place] += 1


def _run(number: int) -> str:
    """Runs overlap: a hundred go on at any time."""
    return f"run-{number // (100 * STEPS_OF_A_RUN) * 100 + number % 100:08d}"


def _step(number: int) -> e.Event:
    agent = f"agent-{number % 100}"
    if number % 3 == 0:
        return e.MessagePosted(agent_id=agent, role="user", content="Where is my order, please? " * 4)
    if number % 3 == 1:
        return e.ToolCallCompleted(
            agent_id=agent, tool_name="search", call_id=f"c{number}", result="found " * 10, latency_ms=12.5
        )
    return e.LlmCallCompleted(
        agent_id=agent,
        call_id=f"c{number}",
        provider_name="openai",
        request_model="gpt-4o-mini",
        input_tokens=900,
        output_tokens=80,
        cost_usd=0.0002,
        latency_ms=840.0,
    )


def _signal(number: int) -> e.Signal:
    return e.Signal(
        component=f"tool:{number % 50}",
        kind="call",
        name="latency_ms",
        value=float(number % 977),
        unit="ms",
        failed=number % 10 == 0,
        agent_id=f"agent-{number // 50 % 100}",
    )


async def _ask(store: Store, events: int, queries: int) -> dict[str, Any]:
    """GET /v1/events?correlation_id=… through the whole ASGI application, one after the other."""

    async def never(_position: Position, _view: str, _deadline_s: float) -> None:
        raise NotImplementedError("no question here has a token")

    app = FastAPI()
    app.include_router(create_router(store, lambda: Caller("*", frozenset({"read"})), never))
    install(app)
    chance = random.Random(5)
    took = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bench") as client:
        for _ in range(queries):
            wanted = _run(chance.randrange(events))
            began = time.perf_counter()
            answer = await client.get("/v1/events", params={"correlation_id": wanted})
            took.append((time.perf_counter() - began) * 1000)
            assert len(answer.json()["items"]) == min(STEPS_OF_A_RUN, 50)
    cuts = statistics.quantiles(took, n=100)
    return {"queries": queries, "p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2)}


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:])), indent=1))
