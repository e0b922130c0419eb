"""The embedded broker, where no other test would show it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas import topics
from streams.admin import declared, ensure_topics
from streams.broker import Broker
from streams.kafka import client_options, connect
from streams.settings import Settings
from tests.conftest import free_base_port

PRODUCERS = 4


async def transaction(settings: Settings, number: int, value: bytes) -> AIOKafkaProducer:
    """A producer with an open transaction that wrote to every partition."""
    producer = AIOKafkaProducer(
        **client_options(settings), transactional_id=f"t{number}", transaction_timeout_ms=1_000
    )
    await connect(settings, producer, 30)
    await producer.begin_transaction()
    for partition in range(settings.partitions):
        await producer.send_and_wait(topics.SIGNALS.name, value, partition=partition)
    return producer


async def test_what_was_open_at_a_kill_is_aborted(tmp_path: Path) -> None:
    """Kafka, restarted alone, aborts without a word to the partitions: the next commit took it along."""
    settings = Settings(data=tmp_path, port=free_base_port())
    broker = Broker(settings)
    await broker.start()
    try:
        await ensure_topics(
            settings, [spec for spec in declared(settings) if spec.name == topics.SIGNALS.name]
        )
        left_open = [await transaction(settings, n, b"aborted") for n in range(PRODUCERS)]
        broker.kill()
        await broker.stop()
        for producer in left_open:
            closing = asyncio.create_task(producer.stop())
            await asyncio.wait({closing}, timeout=0.1)
            closing.cancel()
        await asyncio.sleep(1.0)
        await broker.start()
        for number in range(PRODUCERS):
            producer = await transaction(settings, number, b"committed")
            await producer.commit_transaction()
            await producer.stop()
        consumer = AIOKafkaConsumer(
            **client_options(settings), isolation_level="read_committed", auto_offset_reset="earliest"
        )
        await connect(settings, consumer, 30)
        consumer.assign([TopicPartition(topics.SIGNALS.name, p) for p in range(settings.partitions)])
        seen: list[bytes] = []
        while len(seen) < PRODUCERS * settings.partitions:
            got = await consumer.getmany(timeout_ms=10_000)
            assert got, f"only {len(seen)} records became visible"
            seen += [m.value for messages in got.values() for m in messages]
        await consumer.stop()
        assert set(seen) == {b"committed"}
    finally:
        await broker.stop()
