"""What a disturbed run is held against: the same input through the same folds, undisturbed, in memory."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from processors.fold import Fold
from projections.catalog import views
from projections.generations import lacking
from projections.store import Store
from projections.view import Place
from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, to_headers
from streams.kafka import client_options, connect
from streams.partitions.kafka_log import KafkaLog
from streams.partitions.log import FOLDS
from streams.runner import Runner
from streams.settings import Settings
from streams.simulation import Simulation
from streams.views.source import Decoder, partition_counts
from tests.projections.material import feed
from tests.streams.kill_worker import folds


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
    await connect(settings, producer, 30)
    started = time.monotonic()
    try:
        for i, (event, envelope) in enumerate(made):
            topic = topics.topic_of(type(event)).name
            key = f"default/{topics.key_of(event)}".encode()
            await producer.send(
                settings.named(topic), codec.encode(event), key=key, headers=to_headers(envelope)
            )
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
        **client_options(settings),
        group_id=settings.named(FOLDS),
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    await connect(settings, consumer, 30)
    try:
        total = 0
        for topic in topics.TOPICS:
            if topic.kind not in {"raw", "keyed"}:
                continue
            count = settings.raw_partitions if topic.kind == "raw" else settings.partitions
            tps = [TopicPartition(settings.named(topic.name), p) for p in range(count)]
            ends = await consumer.end_offsets(tps)
            for tp in tps:
                total += ends[tp] - (await consumer.committed(tp) or 0)
        return total
    finally:
        await consumer.stop()


async def views_have_read_it(settings: Settings, deadline: float) -> None:
    """Wait until every view has read every topic to its end."""
    log = KafkaLog(settings, "observer")
    await log.start()
    store = Store(settings.database_url, views())
    for view in views():
        counts = await partition_counts(settings, view.topics)
        ends = {
            (topic, partition): (await log.bounds(topic, partition))[1]
            for topic, count in counts.items()
            for partition in range(count)
        }
        while missing := lacking(store.live(view.name)[1], ends):
            assert time.monotonic() < deadline, f"view {view.name} has not read {missing}"
            await asyncio.sleep(0.2)
    store.close()
    await log.close()


def shown(store: Store, name: str) -> dict[str, list[dict[str, Any]]]:
    """What a view's tables say, without places in the log: those depend on how transactions were cut.

    So do histories, and which copies of an event did not count.
    """
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
            if not {"digest", "at_bucket"} & set(columns.c.keys()) and table != "uncounted"
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


async def compare(
    settings: Settings,
    made: list[tuple[e.Event, Envelope]],
    hosted: Callable[[], Sequence[Fold[Any]]] = folds,
) -> None:
    """Outputs by content, state restored from the log, and views, against an undisturbed run in memory."""
    undisturbed = Simulation(hosted, partitions=settings.partitions)
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
    runner = Runner(settings, hosted)
    await runner.prepare()
    states: dict[tuple[str, str], Any] = {}
    for partition in range(settings.partitions):
        task = runner._task("signals", partition)
        await task.assign()
        assert task.engine is not None
        for slot in task.engine.slots:
            states.update({(slot.fold.name, key): state for key, state in slot.unpacked().items()})
        await task.discard()
    await runner.close()
    assert states == await undisturbed.states()
    seen_views = Store(settings.database_url, views())
    expected_store = expected_views(undisturbed, settings.data / "undisturbed.db")
    for view in views():
        assert shown(seen_views, view.name) == shown(expected_store, view.name), view.name
    seen_views.close()
    expected_store.close()
