"""SIGKILL of workers and views at named steps and at random, and of the broker: nothing lost or doubled."""

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

from projections.catalog import views
from projections.generations import lacking
from projections.store import Store
from projections.view import Place
from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from streams.admin import declared, ensure_topics
from streams.broker import Broker
from streams.kafka import client_options, patiently
from streams.partitions.kafka_log import KafkaLog
from streams.runner import GROUP, Runner
from streams.settings import Settings
from streams.simulation import Simulation
from streams.views.source import Decoder
from tests.conftest import free_base_port
from tests.projections.material import feed
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
ONCE = {"rebalance.revoked", "rebalance.assigned", "restore.loaded", "restore.folded"}
"""Steps that a worker takes once or so before somebody else's death disturbs it."""
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
        self._views = self._start("views")

    def spawn(self, step: str | None = None) -> None:
        """Start one; `step` is where it dies."""
        at = ""
        if step is not None:
            at = f"{step}:{1 if step in ONCE else self._random.randint(1, 6)}"
        self._processes.append((self._start("folds", at), step))

    def _start(self, role: str, crash_at: str = "") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.streams.kill_worker", role],
            env=os.environ
            | {
                "HEADWATER_DATA": str(self.settings.data),
                "HEADWATER_PORT": str(self.settings.port),
                "HEADWATER_LOG_LEVEL": "WARNING",
                "HEADWATER_CRASH_AT": crash_at,
            },
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

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
            self.spawn(self.next_step())
        assert self._views.poll() is None, f"the views process ended by itself: see {self._log.name}"

    def kill_views(self) -> None:
        """SIGKILL the views process, wherever it is."""
        self._views.kill()
        self._views.wait()
        self.kills["views"] += 1
        self._views = self._start("views")

    def kill_one(self) -> None:
        """SIGKILL one, wherever it is."""
        process, _ = self._random.choice(self._processes)
        process.kill()
        process.wait()
        self.kills["random"] += 1
        self._processes = [(p, s) for p, s in self._processes if p is not process]
        self.spawn(self.next_step())

    def next_step(self) -> str:
        """Where the next worker is to die."""
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
        processes = [self._views, *(process for process, _ in self._processes)]
        for process in processes:
            process.terminate()
        for process in processes:
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
        herd.spawn(herd.next_step())
    try:
        feeding = asyncio.create_task(produce(settings, made, per_second=events / (kills * 1.2)))
        broker_killed = False
        while herd.kills.total() < kills:
            await asyncio.sleep(rng.uniform(0.3, 1.2))
            herd.tend()
            if rng.random() < 0.06:
                herd.kill_one()
            if rng.random() < 0.06:
                herd.kill_views()
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
        await views_have_read_it(settings, deadline)
    finally:
        herd.stop()
    await compare(settings, made)
    return herd.kills


async def views_have_read_it(settings: Settings, deadline: float) -> None:
    """Wait until every view has read every topic to its end."""
    log = KafkaLog(settings, "observer")
    await log.start()
    store = Store(settings.database_url, views())
    for view in views():
        ends = {
            (topic.name, partition): (await log.bounds(topic.name, partition))[1]
            for topic in view.topics
            for partition in range(settings.raw_partitions if topic.kind == "raw" else settings.partitions)
        }
        while missing := lacking(store.live(view.name)[1], ends):
            assert time.monotonic() < deadline, f"view {view.name} has not read {missing}"
            await asyncio.sleep(0.2)
    store.close()
    await log.close()


def shown(store: Store, name: str) -> dict[str, list[dict[str, Any]]]:
    """What a view's tables say, without places in the log: those depend on how transactions were cut."""
    with store.read(name) as reading:
        return {
            table: sorted(
                (
                    {c: v for c, v in row._asdict().items() if c not in ("partition", "offset")}
                    for row in reading.connection.execute(columns.select())
                ),
                key=repr,
            )
            for table, columns in reading.tables[name].items()
            if "digest" not in columns.c
        }


def expected_views(undisturbed: Simulation, path: Path) -> Store:
    """The views of what the undisturbed run wrote."""
    store = Store(f"sqlite:///{path}", views())
    store.prepare()
    records = [
        record
        for topic, count in undisturbed.log.partitions.items()
        for partition in range(count)
        for record in undisturbed.log.records(topic, partition)
        if topic in {t.name for t in topics.TOPICS}
    ]
    entries, bad = Decoder(undisturbed.codec, keep_bytes=0).entries(records)
    assert not bad
    ends: dict[Place, int] = {}
    for entry in entries:
        ends[entry.topic, entry.partition] = entry.offset + 1
    feed(store, entries, ends)
    return store


async def compare(settings: Settings, made: list[tuple[e.Event, Envelope]]) -> None:
    """Outputs by content, state restored from the log, and views, against an undisturbed run in memory."""
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
            states.update({(slot.fold.name, key): state for key, state in slot.unpacked().items()})
        await task.discard()
    await runner._log.close()
    assert states == await undisturbed.states()
    seen_views = Store(settings.database_url, views())
    expected_store = expected_views(undisturbed, settings.data / "undisturbed.db")
    for view in views():
        assert shown(seen_views, view.name) == shown(expected_store, view.name), view.name
    seen_views.close()
    expected_store.close()


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
    """After ten kills of workers and views and one of the broker, all is as if nothing had happened."""
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
    assert not set(STEPS) - set(kills), "not every step had its turn"
