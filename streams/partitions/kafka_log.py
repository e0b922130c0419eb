"""The log in Kafka, by aiokafka: one transactional producer an input partition, readers for restores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata

from schemas.codec import Record
from streams.kafka import client_options, close, connect, patiently, records_of
from streams.obstacles import hopeless
from streams.partitions.log import Fenced, LogUnavailable, Send, Step
from streams.partitions.stable import stable_position
from streams.producing.partitioner import partition_for
from streams.settings import Settings

DEADLINE_S = 30.0
TRANSACTION_TIMEOUT_MS = 10_000
"""A dead worker's open transaction holds back read_committed readers no longer than this."""
COMMIT_DEADLINE_S = 20.0
RETRY_BACKOFF_MS = 10
"""aiokafka waits this long, 100 ms by default, while the last transaction's markers are being written."""


class KafkaLog:
    """See `streams.partitions.log.Log`; `group` is without namespace. One instance serves all tasks of a process."""

    def __init__(self, settings: Settings, group: str = "folds") -> None:
        self.settings = settings
        self.group = settings.named(group)
        self._options = client_options(settings)
        self.partition_counts: dict[str, int] = {}
        """By topic; Kafka is asked once, since the counts of keyed topics never change."""
        self._meta: AIOKafkaConsumer | None = None
        self._positions: AIOKafkaClient | None = None

    async def start(self, deadline_s: float = DEADLINE_S) -> None:
        """Connect the clients that answer questions about offsets. Raises as `connect` does."""
        self._meta = self._consumer(group_id=None)
        await connect(self.settings, self._meta, deadline_s)
        self._positions = AIOKafkaClient(**self._options)
        await connect(self.settings, self._positions, deadline_s)

    async def close(self) -> None:
        """Disconnect."""
        if self._meta is not None:
            await self._meta.stop()
        if self._positions is not None:
            await self._positions.close()

    def _consumer(self, **options: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._options,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=4 * 1024 * 1024,
            **options,
        )

    async def fence(self, topic: str, partition: int, step: Step) -> KafkaTransactions:
        """See `streams.partitions.log.Log`."""
        producer = AIOKafkaProducer(
            **self._options,
            transactional_id=f"{self.group}.{topic}.{partition}",
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            max_batch_size=1024 * 1024,
            max_request_size=self.settings.max_record_bytes + 512 * 1024,
            retry_backoff_ms=RETRY_BACKOFF_MS,
            linger_ms=0,
        )
        await connect(self.settings, producer, DEADLINE_S)
        return KafkaTransactions(self, producer, topic, partition, step)

    async def committed(self, topic: str, partition: int) -> int | None:
        """See `streams.partitions.log.Log`."""
        assert self._positions is not None, "start() first"
        client, tp = self._positions, TopicPartition(self.settings.named(topic), partition)
        return await patiently(
            self.settings,
            "reading a position",
            lambda: stable_position(client, self.group, tp),
            DEADLINE_S,
        )

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `streams.partitions.log.Log`."""
        consumer = self._connected()
        tp = TopicPartition(self.settings.named(topic), partition)

        async def ask() -> tuple[int, int]:
            first = await consumer.beginning_offsets([tp])
            end = await consumer.end_offsets([tp])
            return first[tp], end[tp]

        return await patiently(self.settings, "reading offsets", ask, DEADLINE_S)

    async def read(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[Sequence[Record]]:
        """See `streams.partitions.log.Log`."""
        if start >= end:
            return
        tp = TopicPartition(self.settings.named(topic), partition)
        consumer = self._consumer(group_id=None, max_poll_records=2000)
        await connect(self.settings, consumer, DEADLINE_S)
        try:
            consumer.assign([tp])
            consumer.seek(tp, start)
            while await consumer.position(tp) < end:
                try:
                    batch = await consumer.getmany(tp, timeout_ms=500)
                except KafkaError as error:
                    raise LogUnavailable(
                        f"reading {topic}/{partition}: {error!r}", hint="is Kafka up?"
                    ) from error
                for messages in batch.values():
                    yield records_of((m for m in messages if m.offset < end), self.settings.namespace)
        finally:
            await consumer.stop()

    def _connected(self) -> AIOKafkaConsumer:
        assert self._meta is not None, "start() first"
        return self._meta


class KafkaTransactions:
    """See `streams.partitions.log.Transactions`."""

    def __init__(
        self, log: KafkaLog, producer: AIOKafkaProducer, topic: str, partition: int, step: Step
    ) -> None:
        self._log = log
        self._producer = producer
        self._name = f"{topic}/{partition}"
        self._input = TopicPartition(log.settings.named(topic), partition)
        self._step = step

    async def commit(self, sends: Sequence[Send], next_offset: int) -> None:
        """See `streams.partitions.log.Transactions`."""
        try:
            await asyncio.wait_for(self._commit(sends, next_offset), COMMIT_DEADLINE_S)
        except ProducerFenced as error:
            raise Fenced(
                f"{self._name}: another worker has taken over", hint="give the partition up"
            ) from error
        except (KafkaError, OSError) as error:
            if (refusal := hopeless(self._log.settings, error)) is not None:
                raise refusal from error
            raise LogUnavailable(
                f"{self._name}: a transaction failed: {error!r}", hint="its outcome is read from the log"
            ) from error

    async def _commit(self, sends: Sequence[Send], next_offset: int) -> None:
        producer = self._producer
        await producer.begin_transaction()
        self._step("commit.begun")
        written = await self._write(sends)
        self._step("commit.sent")
        # Records first, then the position: while the coordinator adds the group to the transaction, it
        # refuses to verify partitions, and the records would be retried 100 ms later.
        await asyncio.gather(*written)
        self._step("commit.written")
        await producer.send_offsets_to_transaction(
            {self._input: OffsetAndMetadata(next_offset, "")}, self._log.group
        )
        self._step("commit.offsets")
        await producer.commit_transaction()
        self._step("commit.done")

    async def _write(self, sends: Sequence[Send]) -> list[asyncio.Future[Any]]:
        """Batches built here and handed over whole: a quarter of the cost of a send() a record."""
        by_partition: dict[TopicPartition, list[Send]] = {}
        for send in sends:
            partition = send.partition
            if partition is None:
                partition = partition_for(send.key, await self._partitions(send.topic))
            tp = TopicPartition(self._log.settings.named(send.topic), partition)
            by_partition.setdefault(tp, []).append(send)
        futures = []
        half = len(by_partition) // 2
        for number, (tp, group) in enumerate(by_partition.items()):
            batch = self._producer.create_batch()
            for send in group:
                if self._append(batch, send):
                    continue
                futures.append(await self._producer.send_batch(batch, tp.topic, partition=tp.partition))
                batch = self._producer.create_batch()
                self._append(batch, send)
            futures.append(await self._producer.send_batch(batch, tp.topic, partition=tp.partition))
            if number == half:
                self._step("commit.half_sent")
        return futures

    async def _partitions(self, topic: str) -> int:
        counts = self._log.partition_counts
        if topic not in counts:
            counts[topic] = len(await self._producer.partitions_for(self._log.settings.named(topic)))
        return counts[topic]

    @staticmethod
    def _append(batch: Any, send: Send) -> bool:
        return (
            batch.append(key=send.key, value=send.value, timestamp=None, headers=list(send.headers))
            is not None
        )

    async def close(self) -> None:
        """See `streams.partitions.log.Transactions`."""
        await close(self._producer)
