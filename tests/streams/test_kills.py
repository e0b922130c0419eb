"""SIGKILL of workers at named steps and at random, and of the broker: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from streams.admin import declared, ensure_topics
from streams.broker import Broker
from streams.folding.kafka_log import KafkaLog
from streams.kafka import client_options, patiently
from streams.runner import GROUP, Runner
from streams.settings import Settings
from streams.simulation import Simulation
from tests.conftest import free_base_port
from tests.streams.kill_worker import folds

ROOT = Path(__file__).parents[2]
STEPS = [
    "rebalance.revoked",
    "rebalance.assigned",
    "assign.begin",
    "assign.fenced",
    "restore.loaded",
    "restore.folded",
    "assign.ready",
    "batch.folded",
    "batch.snapshot",
    "commit.begun",
    "commit.half_sent",
    "commit.sent",
    "commit.written",
    "commit.offsets",
    "commit.done",
    "batch.committed",
]
WORKERS = 3


class Herd:
    """Worker processes, some of which are told at which step to die."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        self.kills: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._steps: list[str] = []
        self._log = (settings.data / "workers.log").open("ab")
        self._processes: list[tuple[subprocess.Popen[bytes], str | None]] = []

    def spawn(self, step: str | None = None) -> None:
        """Start one; `step` is where it dies."""
        environment = os.environ | {
            "HEADWATER_DATA": str(self.settings.data),
            "HEADWATER_PORT": str(self.settings.port),
            "HEADWATER_LOG_LEVEL": "WARNING",
        }
        if step is not None:
            environment["HEADWATER_CRASH_AT"] = f"{step}:{self._random.randint(1, 12)}"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.streams.kill_worker"],
            env=environment,
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._processes.append((process, step))

    def tend(self) -> None:
        """Replace the dead: each successor dies at another step, until all steps had their turn."""
        for process, step in list(self._processes):
            code = process.poll()
            if code is None:
                continue
            assert code == -signal.SIGKILL, f"a worker ended by itself with {code}: see {self._log.name}"
            self._processes.remove((process, step))
            if step is not None:
                self.kills[step] += 1
            self.spawn(self._next_step())

    def kill_one(self) -> None:
        """SIGKILL one, wherever it is."""
        process, _ = self._random.choice(self._processes)
        process.kill()
        process.wait()
        self.kills["random"] += 1
        self._processes = [(p, s) for p, s in self._processes if p is not process]
        self.spawn(self._next_step())

    def _next_step(self) -> str:
        if not self._steps:
            self._steps = self._random.sample(STEPS, len(STEPS))
        return self._steps.pop()

    def settle(self) -> None:
        """No more dying at steps: replace those that were told to."""
        for process, step in self._processes:
            if step is not None:
                process.kill()
                process.wait()
        self._processes = [(p, s) for p, s in self._processes if s is None]
        while len(self._processes) < WORKERS:
            self.spawn()

    def stop(self) -> None:
        """End all, cleanly."""
        for process, _ in self._processes:
            process.terminate()
        for process, _ in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


def inputs(count: int, seed: int) -> list[tuple[e.Event, Envelope]]:
    """Metrics and tool calls of some hundred components, some of them delivered twice."""
    rng = random.Random(seed)
    made: list[tuple[e.Event, Envelope]] = []
    for i in range(count):
        name = f"c{rng.randrange(150)}"
        event: e.Event = (
            e.MetricReported(component=name, name="load", value=round(rng.lognormvariate(0, 1), 3))
            if i % 3
            else e.ToolCallCompleted(
                agent_id=name, tool_name=name, call_id=str(i), latency_ms=rng.randrange(900)
            )
        )
        envelope = Envelope(
            id=f"in-{i}",
            source="kills",
            type=type(event).__name__,
            time=1.6e9 + i,
            correlation_id=f"run-{i % 50}",
        )
        made.append((event, envelope))
        if i % 40 == 7:
            made.append((event, envelope))
    return made


async def produce(settings: Settings, made: list[tuple[e.Event, Envelope]], per_second: float) -> None:
    """Write all of it, in order a key, acknowledged; what fails is sent again, which makes duplicates."""
    codec = Codec()
    producer = AIOKafkaProducer(**client_options(settings), acks="all", enable_idempotence=True, linger_ms=5)
    await patiently("connecting", producer.start, 30)
    started = time.monotonic()
    try:
        for i, (event, envelope) in enumerate(made):
            topic = topics.topic_of(type(event)).name
            key = f"default/{topics.key_of(event)}".encode()
            await producer.send(topic, codec.encode(event), key=key, headers=to_headers(envelope))
            ahead = started + i / per_second - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
        await producer.flush()
    finally:
        await producer.stop()


async def committed_contents(settings: Settings, topic: str) -> list[tuple[bytes | None, bytes | None, Any]]:
    """Everything that a read_committed reader sees of a topic, as bytes, sorted."""
    log = KafkaLog(settings, "observer")
    await log.start()
    found = []
    for partition in range(settings.partitions):
        first, end = await log.bounds(topic, partition)
        async for batch in log.read(topic, partition, first, end):
            found += [(r.key, r.value, tuple(r.headers)) for r in batch]
    await log.close()
    return sorted(found)


async def lag(settings: Settings) -> int:
    """Records that the group has not committed yet."""
    consumer = AIOKafkaConsumer(
        **client_options(settings), group_id=GROUP, enable_auto_commit=False, isolation_level="read_committed"
    )
    await patiently("connecting", consumer.start, 30)
    try:
        total = 0
        for topic in topics.TOPICS:
            if topic.kind == "derived":
                continue
            count = settings.raw_partitions if topic.kind == "raw" else settings.partitions
            tps = [TopicPartition(topic.name, p) for p in range(count)]
            ends = await consumer.end_offsets(tps)
            for tp in tps:
                total += ends[tp] - (await consumer.committed(tp) or 0)
        return total
    finally:
        await consumer.stop()


async def scenario(settings: Settings, broker: Broker, *, kills: int, events: int, seed: int) -> Counter[str]:
    """Feed, kill, let it settle, and compare with an undisturbed run."""
    made = inputs(events, seed)
    herd = Herd(settings, seed)
    rng = random.Random(seed + 1)
    for _ in range(WORKERS):
        herd.spawn()
    try:
        feeding = asyncio.create_task(produce(settings, made, per_second=events / (kills * 1.2)))
        broker_killed = False
        while herd.kills.total() < kills:
            await asyncio.sleep(rng.uniform(0.3, 1.2))
            herd.tend()
            if rng.random() < 0.2:
                herd.kill_one()
            if not broker_killed and herd.kills.total() >= kills // 2:
                broker_killed = True
                broker.kill()
                await broker.stop()
                await broker.start()
        await feeding
        herd.settle()
        deadline = time.monotonic() + 120
        while await lag(settings):
            herd.tend()
            assert time.monotonic() < deadline, f"still lagging: {await lag(settings)}"
            await asyncio.sleep(0.5)
    finally:
        herd.stop()
    await compare(settings, made)
    return herd.kills


async def compare(settings: Settings, made: list[tuple[e.Event, Envelope]]) -> None:
    """Outputs by content, and state restored from the log, against an undisturbed run in memory."""
    undisturbed = Simulation(folds, partitions=settings.partitions)
    for event, envelope in made:
        undisturbed.produce(
            event,
            id=envelope.id,
            time=envelope.time,
            source=envelope.source,
            correlation_id=envelope.correlation_id,
        )
    await undisturbed.run()
    for topic in ("anomalies", "headwater.dead-letters"):
        seen = await committed_contents(settings, topic)
        expected = undisturbed.contents(topic)
        lost = Counter(expected) - Counter(seen)
        doubled = Counter(seen) - Counter(expected)
        assert not lost, f"{topic}: {lost.total()} lost or other, such as {next(iter(lost))}"
        assert not doubled, f"{topic}: {doubled.total()} doubled or other, such as {next(iter(doubled))}"
    runner = Runner(settings, folds)
    await runner._log.start()
    states: dict[tuple[str, str], Any] = {}
    for partition in range(settings.partitions):
        task = runner._task("signals", partition)
        await task.assign()
        assert task.engine is not None
        for slot in task.engine.slots:
            states.update({(slot.fold.name, key): state for key, state in slot.states.items()})
        await task.discard()
    await runner._log.close()
    assert states == await undisturbed.states()


async def run_with_broker(tmp_path: Path, *, kills: int, events: int, seed: int) -> Counter[str]:
    """A broker of its own, since it is killed too."""
    settings = Settings(data=tmp_path, port=free_base_port())
    broker = Broker(settings)
    await broker.start()
    try:
        await ensure_topics(settings, declared(settings, folds()))
        return await scenario(settings, broker, kills=kills, events=events, seed=seed)
    finally:
        await broker.stop()


async def test_ten_kills(tmp_path: Path) -> None:
    """After ten kills of workers and one of the broker, all is as if nothing had happened."""
    kills = await run_with_broker(tmp_path, kills=10, events=6_000, seed=1)
    print(dict(kills))
    assert kills.total() >= 10


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(4))
async def test_a_hundred_kills(tmp_path: Path, seed: int) -> None:
    """A hundred kills, every named step among them, leave no trace in outputs or state."""
    kills = await run_with_broker(tmp_path, kills=100, events=40_000, seed=seed)
    print(dict(kills))
    assert kills.total() >= 100
