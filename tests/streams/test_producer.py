"""What the producer promises, on a real broker."""

from __future__ import annotations

import asyncio
import os
import uuid
from base64 import b85encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import UnknownTopicOrPartitionError

from schemas import events as e
from schemas.codec import Codec, Decoded
from schemas.envelope import Envelope
from schemas.errors import BrokerUnavailable, ConfigurationError, HeadwaterError, InvalidEvent, RecordTooLarge
from streams.admin import ensure_topics
from streams.broker import Broker
from streams.kafka import client_options, records_of
from streams.producing.budget import Budget
from streams.producing.partitioner import partition_for
from streams.producing.producer import Outgoing, Position, Producer, Unacknowledged
from streams.settings import Settings
from tests.conftest import free_base_port


def metric(value: float = 1.0, component: str = "tool:search") -> e.MetricReported:
    """A metric of a component."""
    return e.MetricReported(component=component, name="latency_ms", value=value)


def message(content: str) -> e.MessagePosted:
    """A message with this content."""
    return e.MessagePosted(agent_id="a", role="user", content=content)


async def read(settings: Settings, positions: list[Position]) -> list[Decoded]:
    """The records at these positions, in their order."""
    codec = Codec()
    consumer = AIOKafkaConsumer(**client_options(settings), auto_offset_reset="none")
    await consumer.start()
    try:
        found = []
        for topic, partition, offset in positions:
            tp = TopicPartition(settings.named(topic), partition)
            consumer.assign([tp])
            consumer.seek(tp, offset)
            found.append(codec.decode_record(*records_of([await consumer.getone()], settings.namespace)))
        return found
    finally:
        await consumer.stop()


async def ends(settings: Settings, topic: str) -> dict[int, int]:
    """End offset of each partition of a topic."""
    consumer = AIOKafkaConsumer(**client_options(settings))
    await consumer.start()
    try:
        tps = [TopicPartition(settings.named(topic), p) for p in range(settings.raw_partitions)]
        return {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}
    finally:
        await consumer.stop()


@pytest.fixture
async def producer(broker: Settings) -> AsyncIterator[Producer]:
    """A started producer."""
    async with Producer(broker) as p:
        yield p


async def test_an_emitted_event_is_read_back_whole(broker: Settings, producer: Producer) -> None:
    """The record at the returned position is the event, with the key and the envelope that were given."""
    event = metric(2.5)
    position = await producer.emit(
        event,
        project="acme",
        id="id-1",
        time=1.5,
        correlation_id="run-1",
        causation_id="cause-1",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        clock="replay",
    )
    (got,) = await read(broker, [position])
    assert got == Decoded(
        "acme/tool:search",
        event,
        Envelope(
            id="id-1",
            source="sdk",
            type="MetricReported",
            time=1.5,
            project="acme",
            subject="tool:search",
            correlation_id="run-1",
            causation_id="cause-1",
            traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            clock="replay",
        ),
    )
    assert position.topic == "agent.metrics"
    assert position.partition == partition_for(b"acme/tool:search", broker.raw_partitions)


async def test_many_events_keep_their_order(broker: Settings, producer: Producer) -> None:
    """Positions are returned in the order of the items, and within a partition offsets follow it."""
    items = [producer.outgoing(metric(i, f"tool:{i % 7}")) for i in range(2000)]
    positions = await producer.emit_many(items)
    assert len(positions) == len(set(positions)) == 2000
    for partition in range(broker.raw_partitions):
        offsets = [p.offset for p in positions if p.partition == partition]
        assert offsets == sorted(offsets)
    got = await read(broker, positions[::400])
    assert [d.event for d in got] == [i.event for i in items[::400]]


async def test_an_empty_list_is_nothing(producer: Producer) -> None:
    """Emitting nothing returns nothing and does not wait."""
    assert await producer.emit_many([]) == []


async def test_concurrent_emits_are_all_acknowledged(producer: Producer) -> None:
    """Many tasks share one producer; each gets a position of its own."""
    positions = await asyncio.gather(*(producer.emit(metric(i, f"tool:{i}")) for i in range(500)))
    assert len(set(positions)) == 500
    assert producer.unacknowledged_bytes == 0


async def test_concurrent_first_emits_ask_for_the_topics_once(
    broker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which topics there are is a large answer where there are many: one question serves all who wait for it."""
    asked = 0
    ask = AIOKafkaClient.fetch_all_metadata

    async def counting(client: AIOKafkaClient) -> Any:
        nonlocal asked
        asked += 1
        return await ask(client)

    monkeypatch.setattr(AIOKafkaClient, "fetch_all_metadata", counting)
    async with Producer(broker) as producer:
        await asyncio.gather(*(producer.emit(metric(i, f"tool:{i}")) for i in range(100)))
    assert asked == 1


async def test_a_topic_is_missing_where_kafka_says_so(
    broker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiokafka calls a topic unknown when Kafka was silent for long: that is asked anew, and then sent again."""
    send, faults = AIOKafkaProducer.send_batch, 2

    async def failing(client: AIOKafkaProducer, *given: Any, **named: Any) -> Any:
        nonlocal faults
        if faults:
            faults -= 1
            raise UnknownTopicOrPartitionError
        return await send(client, *given, **named)

    monkeypatch.setattr(AIOKafkaProducer, "send_batch", failing)
    async with Producer(broker) as producer:
        position = await producer.emit(metric(3.25, "tool:late"))
    assert not faults
    (got,) = await read(broker, [position])
    assert got.event == metric(3.25, "tool:late")
    async with Producer(broker.model_copy(update={"namespace": f"none{uuid.uuid4().hex[:8]}"})) as producer:
        with pytest.raises(ConfigurationError, match="does not exist"):
            await producer.emit(metric())


async def test_oversize_is_refused_before_anything_is_sent(broker: Settings, producer: Producer) -> None:
    """One record too large in a list: RecordTooLarge, and not one record of the list is in the log."""
    before = await ends(broker, "agent.messages")
    small, large = message("x"), message("x" * broker.max_record_bytes)
    with pytest.raises(RecordTooLarge, match="MessagePosted takes 1,048,5"):
        await producer.emit_many([producer.outgoing(small), producer.outgoing(large)])
    assert await ends(broker, "agent.messages") == before


async def test_the_largest_record_fits(broker: Settings, producer: Producer) -> None:
    """A value of exactly the limit is written, with long headers."""
    limit = broker.max_record_bytes
    text = b85encode(os.urandom(limit)).decode()
    codec = await producer.codec()
    framing = len(codec.encode(message(text[: limit - 100]))) - (limit - 100)
    event = message(text[: limit - framing])
    assert len(codec.encode(event)) == limit
    position = await producer.emit(event, correlation_id="c" * 8000)
    assert (await read(broker, [position]))[0].event == event


async def test_long_metadata_is_refused(producer: Producer) -> None:
    """Key and headers have a limit of their own, below what the topic allows beyond the value."""
    with pytest.raises(RecordTooLarge, match="key and headers"):
        await producer.emit(metric(), correlation_id="c" * 20_000)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"project": "a/b"}, "project"),
        ({"project": ""}, "project"),
        ({"time": float("nan")}, "time"),
        ({"time": 1e15}, "time"),
        ({"traceparent": "00-zz"}, "traceparent"),
        ({"id": "\ud800"}, "cannot be written"),
        ({"key": "\ud800"}, "cannot be written"),
    ],
)
async def test_a_bad_envelope_is_refused(producer: Producer, options: Any, match: str) -> None:
    """What would make an unreadable record raises InvalidEvent instead."""
    with pytest.raises(InvalidEvent, match=match):
        await producer.emit(metric(), **options)


@pytest.mark.parametrize(
    "event",
    [
        e.Signal(component="tool:x", kind="metric", name="n"),
        e.Tick(topic="signals", partition=0, after_offset=0, at=0.0),
        e.DeadLetter(topic="signals", partition=0, offset=0, error_type="X"),
    ],
)
async def test_events_of_folds_may_not_enter(producer: Producer, event: e.Event) -> None:
    """Events of keyed, derived and internal topics are refused, also when the envelope was made by hand."""
    with pytest.raises(InvalidEvent):
        await producer.emit(event)
    by_hand = Outgoing(event, Envelope(id="1", source="s", type=type(event).__name__, time=0.0), "k")
    with pytest.raises(InvalidEvent):
        await producer.emit_many([by_hand])


async def test_an_unchecked_event_is_refused(producer: Producer) -> None:
    """An event made round its model that Avro cannot write raises InvalidEvent, not the codec's error."""
    event = e.MetricReported.model_construct(component="c", name="n", value="x", unit="", agent_id=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent, match="cannot be written"):
        await producer.emit(event)


async def test_memory_is_bounded(broker: Settings) -> None:
    """With little room many emits go through, and never more than the limit is under way."""
    async with Producer(broker, deadline_s=20, max_unacknowledged_bytes=50_000) as producer:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, producer.unacknowledged_bytes)
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        items = [producer.outgoing(metric(i, f"tool:{i}")) for i in range(1000)]
        await asyncio.gather(*(producer.emit_many(items[i::10]) for i in range(10)))
        watcher.cancel()
        assert 0 < most <= 50_000
        assert producer.unacknowledged_bytes == 0


async def test_flush_waits_for_what_is_under_way(producer: Producer) -> None:
    """After flush every emit that had begun is acknowledged."""
    tasks = [asyncio.create_task(producer.emit(metric(i))) for i in range(50)]
    await asyncio.sleep(0)
    await producer.flush()
    await asyncio.sleep(0)
    assert all(t.done() for t in tasks)


async def test_a_stopped_producer_refuses(broker: Settings) -> None:
    """Emitting after stop raises at once."""
    async with Producer(broker) as producer:
        await producer.emit(metric())
    with pytest.raises(HeadwaterError, match="stopped"):
        await producer.emit(metric())


async def test_a_missing_topic_is_named(broker: Settings) -> None:
    """In a namespace without topics: ConfigurationError at once, saying what to run."""
    elsewhere = broker.model_copy(update={"namespace": "nowhere", "kafka": broker.bootstrap})
    async with Producer(elsewhere) as producer:
        with pytest.raises(ConfigurationError, match=r"nowhere\.agent\.metrics.*topics create"):
            await asyncio.wait_for(producer.emit(metric()), 5)


async def test_a_cancelled_emit_leaves_the_producer_well(producer: Producer) -> None:
    """A caller that stops waiting does not disturb the others, and its bytes are given back."""
    task = asyncio.create_task(producer.emit(metric()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await producer.emit(metric())
    assert producer.unacknowledged_bytes == 0


async def test_without_a_broker_connecting_fails_in_time(tmp_path: Path) -> None:
    """No broker: start raises BrokerUnavailable after the deadline, and says where it looked."""
    settings = Settings(data=tmp_path, port=free_base_port())
    producer = Producer(settings, deadline_s=1)
    with pytest.raises(BrokerUnavailable, match=rf"127\.0\.0\.1:{settings.kafka_port} within 1 s"):
        await asyncio.wait_for(producer.start(), 3)
    with pytest.raises(Unacknowledged, match="1 of 1 events not acknowledged"):
        await producer.emit(metric())
    await producer.stop()


async def test_a_lost_broker(tmp_path: Path) -> None:
    """Emits end in Unacknowledged after the deadline, naming the ids; after the outage the producer works.

    What was acknowledged is there, an emit still waiting gets through, what was given up is not written.
    """
    settings = Settings(data=tmp_path, port=free_base_port())
    broker = Broker(settings)
    await broker.start()
    patient, hasty = Producer(settings, deadline_s=90), Producer(settings, deadline_s=60)
    try:
        await ensure_topics(settings)
        acknowledged = await hasty.emit_many([hasty.outgoing(metric(i, f"tool:{i}")) for i in range(100)])
        acknowledged.append(await patient.emit(metric(component="tool:patient")))
        broker.kill()
        waiting = asyncio.create_task(patient.emit(metric(7, "tool:patient")))
        hasty.deadline_s = 1.5
        for attempt in range(2):  # the first is stuck on the wire, the second finds no connection
            items = [hasty.outgoing(metric(i, "tool:lost"), id=f"lost-{attempt}-{i}") for i in range(3)]
            with pytest.raises(Unacknowledged, match="3 of 3 events not acknowledged") as caught:
                await hasty.emit_many(items)
            assert caught.value.ids == [i.envelope.id for i in items]
            assert caught.value.positions == [None] * 3
            assert caught.value.retriable
        assert hasty.unacknowledged_bytes == 0
        await broker.stop()
        await broker.start()
        hasty.deadline_s = 60
        after = await hasty.emit(metric(9, "tool:after"))
        late = await waiting
        got = await read(settings, [*acknowledged, late, after])
        assert len(got) == 103
        assert [d.event for d in got[-2:]] == [metric(7, "tool:patient"), metric(9, "tool:after")]
        assert sum((await ends(settings, "agent.metrics")).values()) == 103, "what was given up was written"
    finally:
        await asyncio.gather(patient.stop(), hasty.stop())
        await broker.stop()


async def test_budget_serves_in_order() -> None:
    """Who waits for room gets it in order of arrival; a cancelled waiter leaves no gap."""
    budget = Budget(10)
    assert budget.try_take(8)
    order: list[str] = []

    async def take(name: str, cost: int) -> None:
        await budget.take(cost)
        order.append(name)

    tasks = [asyncio.create_task(take(n, c)) for n, c in (("large", 9), ("gone", 1), ("small", 1))]
    await asyncio.sleep(0)
    assert not budget.try_take(1), "nobody overtakes"
    tasks[1].cancel()
    budget.give(8)
    _, gone, _ = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(gone, asyncio.CancelledError), "it was passed over before it knew that it was cancelled"
    assert order == ["large", "small"]
    assert budget.used == 10
    budget.give(10)
    assert budget.try_take(11), "one above the limit fits alone"


async def test_a_share_leaves_the_rest_to_others() -> None:
    """Who shares a budget waits for his share; what it has no room for takes no room from the whole."""
    whole = Budget(100)
    greedy, modest = Budget(30, whole), Budget(30, whole)
    assert greedy.try_take(30)
    waiting = [asyncio.create_task(greedy.take(10)) for _ in range(50)]
    await asyncio.sleep(0)
    assert whole.used == 30
    assert modest.try_take(30)
    assert whole.try_take(40), "the whole has room beside both"
    modest.give(30)
    greedy.give(30)
    await asyncio.sleep(0)
    assert (greedy.used, whole.used) == (30, 70)
    for _ in range(50):
        greedy.give(10)
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert (greedy.used, whole.used) == (0, 40)


async def test_a_share_waits_for_the_whole() -> None:
    """Where the whole is full a share waits for it, in order; who gives up leaves both as they were."""
    whole = Budget(10)
    share = Budget(8, whole)
    assert whole.try_take(9)
    first = asyncio.create_task(share.take(5))
    second = asyncio.create_task(share.take(2))
    third = asyncio.create_task(share.take(4))
    await asyncio.sleep(0)
    assert (share.used, whole.used) == (7, 9), "the third waits for the share, the others for the whole"
    first.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    whole.give(9)
    await asyncio.gather(second, third)
    assert first.cancelled()
    assert (share.used, whole.used) == (6, 6)
    share.give(6)
    assert (share.used, whole.used) == (0, 0)


async def test_a_large_share_of_one_call_gives_all_of_it_back(broker: Settings) -> None:
    """A list many times as large as its share is written whole and in order, and nothing stays taken."""
    async with Producer(broker, deadline_s=10) as producer:
        share = producer.share(20_000)
        items = [await producer.prepare(producer.outgoing(metric(i, "tool:shared"))) for i in range(500)]
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, share.used)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        positions = await producer.send(items, share)
        watching.cancel()
        assert [p.offset for p in positions] == list(range(positions[0].offset, positions[0].offset + 500))
        assert sum(item.cost for item in items) > 10 * 20_000
        assert 0 < most <= 20_000
        assert (share.used, producer.unacknowledged_bytes) == (0, 0)
