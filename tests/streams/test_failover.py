"""A killed worker's partitions are processed again, with all their state, within ten seconds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

from schemas import events as e
from schemas.envelope import Envelope
from streams.admin import declared, ensure_topics
from streams.broker import Broker
from streams.kafka import client_options
from streams.settings import Settings
from tests.conftest import free_base_port
from tests.streams.kill_worker import folds
from tests.streams.test_kills import Herd
from tests.streams.undisturbed import lag, produce

LIMIT_S = 10.0


def signals(keys: int, first: int) -> list[tuple[e.Event, Envelope]]:
    """One signal for each of `keys` components."""
    return [
        (
            e.Signal(component=f"c{i}", kind="metric", name="load", value=1.0 + i % 7),
            Envelope(id=f"s-{first}-{i}", source="failover", type="Signal", time=1.6e9 + first),
        )
        for i in range(keys)
    ]


async def until_settled(settings: Settings, herd: Herd) -> None:
    """Wait until everything produced so far is folded."""
    deadline = time.monotonic() + 240
    while await lag(settings):
        herd.tend()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.5)


async def failover_s(settings: Settings, keys: int) -> float:
    """Seconds from the kill until an output of every partition is seen again."""
    herd = Herd(settings, 0)
    herd.spawn()
    herd.spawn()
    consumer = AIOKafkaConsumer(
        "anomalies",
        **client_options(settings),
        isolation_level="read_committed",
        auto_offset_reset="latest",
    )
    try:
        await produce(settings, signals(keys, 0), per_second=1e9)
        await until_settled(settings, herd)
        await asyncio.sleep(7)  # a round of snapshots
        await consumer.start()
        for tp in consumer.assignment():
            await consumer.position(tp)
        for number in (1, 2, 3):
            taken = await killed_s(settings, herd, consumer, number)
            if taken > 1.0:
                return taken
            # It had raw topics alone: partitions are shared out by number. The other has the rest.
            herd.spawn()
            await asyncio.sleep(10)
        raise AssertionError("no worker that was killed had state")
    finally:
        await consumer.stop()
        herd.stop()


async def killed_s(settings: Settings, herd: Herd, consumer: AIOKafkaConsumer, number: int) -> float:
    """Seconds from killing the eldest until all of 200 signals, some of every partition, are answered."""
    victim, _ = herd._processes.pop(0)
    victim.kill()
    victim.wait()
    started = time.monotonic()
    seen: set[bytes] = set()
    probes = signals(200, number)
    await produce(settings, probes, per_second=1e9)
    while len(seen) < len(probes):
        for messages in (await consumer.getmany(timeout_ms=500)).values():
            seen |= {m.key for m in messages if b"\x0cledger" in m.value}
        assert time.monotonic() - started < 60, f"only {len(seen)} of {len(probes)} came"
    return time.monotonic() - started


async def run(tmp_path: Path, keys: int) -> float:
    """With a broker of its own."""
    settings = Settings(data=tmp_path, port=free_base_port())
    broker = Broker(settings)
    await broker.start()
    try:
        await ensure_topics(settings, declared(settings, folds()))
        return await failover_s(settings, keys)
    finally:
        await broker.stop()


@pytest.mark.prove
async def test_failover_with_some_state(tmp_path: Path) -> None:
    """Two thousand keys: back within the limit."""
    assert await run(tmp_path, 2_000) < LIMIT_S


@pytest.mark.prove
async def test_failover_with_100_000_keys(tmp_path: Path) -> None:
    """A hundred thousand keys of state: back within the limit."""
    taken = await run(tmp_path, 100_000)
    print(f"failover with 100,000 keys: {taken:.1f} s")
    assert taken < LIMIT_S
