"""A bare loop over aiokafka transactions, without our runner: what the transport alone costs.

One loop a partition, each with its own transactional producer, as a runner needs that fences; no
group, no state, no snapshots, no restore, no clocks, no duplicates dropped.
"""

from __future__ import annotations

import asyncio
import signal

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from schemas import events as e
from schemas.codec import Codec
from streams.kafka import client_options
from streams.settings import Settings
from tests.bench.peers.echo import echo

BATCH = 1_000


async def main() -> None:
    """Work until SIGTERM."""
    settings = Settings()
    loops = [asyncio.create_task(_loop(settings, partition)) for partition in range(settings.partitions)]

    def stop() -> None:
        for task in loops:
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    done = await asyncio.gather(*loops, return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, Exception):
            raise outcome


async def _loop(settings: Settings, partition: int) -> None:
    codec = Codec()
    source = TopicPartition(settings.named("signals"), partition)
    target = settings.named("anomalies")
    producer = AIOKafkaProducer(
        **client_options(settings), transactional_id=settings.named(f"bare.{partition}"), linger_ms=0
    )
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        group_id=None,
        isolation_level="read_committed",
        enable_auto_commit=False,
    )
    await producer.start()
    await consumer.start()
    consumer.assign([source])
    await consumer.seek_to_end(source)
    try:
        while True:
            fetched = await consumer.getmany(source, timeout_ms=200, max_records=BATCH)
            messages = fetched.get(source, [])
            if not messages:
                continue
            await producer.begin_transaction()
            batch = producer.create_batch()
            for message in messages:
                event = codec.decode(message.value)
                assert isinstance(event, e.Signal)
                batch.append(key=message.key, value=codec.encode(echo(event)), timestamp=None)
            # The same key has the same partition in both topics.
            await (await producer.send_batch(batch, target, partition=partition))
            await producer.send_offsets_to_transaction(
                {source: OffsetAndMetadata(messages[-1].offset + 1, "")}, settings.named("bare")
            )
            await producer.commit_transaction()
    finally:
        await consumer.stop()
        await producer.stop()


if __name__ == "__main__":
    uvloop.run(main())
