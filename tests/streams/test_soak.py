"""An hour at 2,000 events a second, with every process killed again and again: nothing lost, nothing grows.

`HEADWATER_SOAK_MINUTES` makes it shorter or longer. In the last third nothing is killed: there memory is
watched, which those that were killed before have had time to fill.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import fmean, linear_regression

import httpx
import psutil
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from schemas import events as e
from schemas import topics
from streams.keys import admin_key
from streams.sdk import Headwater
from tests.conftest import free_base_port
from tests.streams.instances import Instance, until

MINUTES = float(os.environ.get("HEADWATER_SOAK_MINUTES", "60"))
RATE = 2_000
BATCH_S = 0.1
VICTIMS = ("folds", "views", "serve", "folds", "reactors", "broker")
BETWEEN_S = 60.0
SAMPLE_S = 10.0
TOOLS = 40
AGENTS = 200
NOISE = 0.05
"""How much a process may grow within the last third, as a share of what it has, ..."""
NOISE_BYTES = 24 * 2**20
"""... or this much: interpreters and a JVM do not keep still."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """A running instance."""
    one = Instance(tmp_path / "data", free_base_port())
    try:
        one.start()
        yield one
    finally:
        one.end()


def events(rng: Random) -> Iterator[e.Event]:
    """Tool calls of a fleet that is well, some of which fail."""
    for number in itertools.count():
        about = {
            "agent_id": f"agent-{rng.randrange(AGENTS):03d}",
            "tool_name": f"tool-{rng.randrange(TOOLS):02d}",
            "call_id": f"call-{number}",
        }
        latency = rng.lognormvariate(5, 0.3)
        if rng.random() < 0.02:
            yield e.ToolCallFailed(**about, error_type="Timeout", latency_ms=latency)
        else:
            yield e.ToolCallCompleted(**about, result="done", latency_ms=latency)


async def load(instance: Instance, seconds: float, sent: Counter[str]) -> None:
    """Emit at an even rate, and count what was acknowledged by tool."""
    made = events(Random(11))
    begun, under_way = time.monotonic(), set[asyncio.Task[None]]()

    async def emit(headwater: Headwater, batch: list[e.Event]) -> None:
        await headwater.emit_many(batch)
        sent.update(f"tool:{event.tool_name}" for event in batch if hasattr(event, "tool_name"))

    async with (
        Headwater(instance.settings, source="soak", deadline_s=180) as headwater,
        asyncio.TaskGroup() as group,
    ):
        for number in itertools.count(1):
            task = group.create_task(emit(headwater, list(itertools.islice(made, int(RATE * BATCH_S)))))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(max(0.0, begun + number * BATCH_S - time.monotonic()))
            if time.monotonic() - begun > seconds:
                return


async def faults(instance: Instance, seconds: float) -> int:
    """Kill one after the other; returns how many."""
    end = time.monotonic() + seconds
    for number, victim in enumerate(itertools.cycle(VICTIMS)):
        if time.monotonic() + BETWEEN_S > end:
            return number
        await asyncio.sleep(BETWEEN_S)
        await asyncio.to_thread(instance.kill, victim)
    raise AssertionError


async def watch(instance: Instance, after_s: float, until_s: float) -> dict[str, list[tuple[float, float]]]:
    """Memory (PSS, bytes) of each process by time, in the undisturbed part."""
    await asyncio.sleep(after_s)
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    begun = time.monotonic()
    while (now := time.monotonic() - begun) < until_s:
        for name, pid in instance.pids().items():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                seen[name].append((now, (await asyncio.to_thread(process.memory_full_info)).pss))
        await asyncio.sleep(SAMPLE_S)
    return seen


def growth(samples: list[tuple[float, float]]) -> float:
    """By how many bytes it grew from the first sample to the last, by the line of least squares."""
    slope, _ = linear_regression(*zip(*samples, strict=True))
    return slope * (samples[-1][0] - samples[0][0])


def calls(instance: Instance) -> Counter[str]:
    """What the view says of each tool; nothing while the API is away."""
    headers = {"Authorization": f"Bearer {admin_key(instance.settings)}"}
    with suppress(httpx.TransportError):
        answer = httpx.get(
            f"{instance.settings.api_url}/v1/components", params={"limit": 200}, headers=headers, timeout=30
        )
        if answer.status_code == 200:
            return Counter({c["id"]: c["calls"] for c in answer.json()["items"] if c["kind"] == "tool"})
    return Counter()


def doubled(instance: Instance, topic: str) -> list[object]:
    """Ids that stand twice in a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": instance.settings.bootstrap,
            "group.id": "soak",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
    ended, ids = 0, Counter[object]()
    while ended < len(partitions):
        for message in consumer.consume(1_000, timeout=1.0):
            if message.error() is not None:
                ended += 1
            else:
                ids[dict(message.headers() or [])["ce_id"]] += 1
    consumer.close()
    return [name for name, count in ids.items() if count > 1]


@pytest.mark.prove
@pytest.mark.timeout(0)
async def test_soak(instance: Instance) -> None:
    """What was acknowledged is in the views once, no output is there twice, and no process grows."""
    seconds, sent = MINUTES * 60, Counter[str]()
    async with asyncio.TaskGroup() as group:
        group.create_task(load(instance, seconds, sent))
        killed = group.create_task(faults(instance, seconds * 2 / 3))
        memory = group.create_task(watch(instance, seconds * 2 / 3 + 30, seconds / 3 - 40))
    ended = time.monotonic()
    await asyncio.to_thread(until, lambda: calls(instance) == sent, 600)
    behind_s = time.monotonic() - ended
    grown = {name: growth(samples) for name, samples in memory.result().items()}
    means = {name: fmean(pss for _, pss in samples) for name, samples in memory.result().items()}
    print(f"{sent.total():,} events, {killed.result()} kills, the views level after {behind_s:.1f} s")
    for name, by in grown.items():
        print(
            f"{name}: {means[name] / 2**20:.0f} MiB, grew by {by / 2**20:+.1f} MiB in {seconds / 180:.0f} min"
        )
    assert sent.total() >= 0.97 * RATE * seconds
    assert killed.result() > 0
    for topic in (topics.SIGNALS.name, topics.ANOMALIES.name):
        assert doubled(instance, topic) == []
    assert {n: by for n, by in grown.items() if by > max(NOISE * means[n], NOISE_BYTES)} == {}
