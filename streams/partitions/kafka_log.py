"""The log in Kafka, by aiokafka: one transactional producer an input partition, readers for restores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, ProducerFenced

from schemas.codec import Record
from streams.kafka import client_options, close, connect, patiently, records_of
from streams.obstacles import hopeless
from streams.partitions.log import FOLDS, Fenced, LogUnavailable, Send, Step
from streams.partitions.stable import stable_position
from streams.partitions.transactions_v1 import TransactionsV1, producer_of
from streams.partitions.transactions_v2 import TransactionsV2, spoken
from streams.settings import Settings

DEADLINE_S = 30.0
COMMIT_DEADLINE_S = 20.0


class KafkaLog:
    """See `streams.partitions.log.Log`; `group` is without namespace. One instance serves all tasks of a process."""

    def __init__(self, settings: Settings, group: str = FOLDS) -> None:
        self.settings = settings
        self.group = settings.named(group)
        self._options = client_options(settings)
        self._meta: AIOKafkaConsumer | None = None
        self._positions: AIOKafkaClient | None = None
        self._second_protocol: bool | None = None

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
        writer = await self._writer(f"{self.group}.{topic}.{partition}", step)
        return KafkaTransactions(self, writer, topic, partition)

    async def _writer(self, transactional_id: str, step: Step) -> TransactionsV1 | TransactionsV2:
        assert self._positions is not None, "start() first"
        client = self._positions
        if self._second_protocol is None:
            self._second_protocol = await patiently(
                self.settings, "asking what Kafka speaks", lambda: spoken(client), DEADLINE_S
            )
        if not self._second_protocol:
            producer = producer_of(self._options, transactional_id, self.settings.max_record_bytes)
            await connect(self.settings, producer, DEADLINE_S)
            return TransactionsV1(producer, self.settings.named, step)
        client = AIOKafkaClient(**self._options)
        await connect(self.settings, client, DEADLINE_S)
        writer = TransactionsV2(client, transactional_id, self.settings.named, step)
        try:
            await patiently(self.settings, "taking over", writer.take_over, DEADLINE_S)
        except BaseException:
            await close(client)
            raise
        return writer

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

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncGenerator[Sequence[Record], None]:
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
                    if messages[-1].offset >= end:
                        messages = [m for m in messages if m.offset < end]  # noqa: PLW2901 - the same, cut
                    yield records_of(messages, self.settings.namespace)
        finally:
            await consumer.stop()

    async def post(self, send: Send) -> None:
        """See `streams.partitions.log.Log`."""
        producer = AIOKafkaProducer(**self._options, acks="all", enable_idempotence=True)
        await connect(self.settings, producer, DEADLINE_S)
        try:
            await producer.send_and_wait(
                self.settings.named(send.topic),
                send.value,
                send.key,
                partition=send.partition,
                headers=list(send.headers),
            )
        except (KafkaError, OSError) as error:
            if (refusal := hopeless(self.settings, error)) is not None:
                raise refusal from error
            raise LogUnavailable(f"writing to {send.topic}: {error!r}", hint="is Kafka up?") from error
        finally:
            await close(producer)

    def _connected(self) -> AIOKafkaConsumer:
        assert self._meta is not None, "start() first"
        return self._meta


class KafkaTransactions:
    """See `streams.partitions.log.Transactions`."""

    def __init__(
        self, log: KafkaLog, writer: TransactionsV1 | TransactionsV2, topic: str, partition: int
    ) -> None:
        self._log = log
        self._writer = writer
        self._name = f"{topic}/{partition}"
        self._input = TopicPartition(log.settings.named(topic), partition)

    async def commit(self, sends: Sequence[Send], next_offset: int) -> None:
        """See `streams.partitions.log.Transactions`."""
        try:
            async with asyncio.timeout(COMMIT_DEADLINE_S):
                await self._writer.commit(sends, self._log.group, self._input, next_offset)
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

    async def close(self) -> None:
        """See `streams.partitions.log.Transactions`."""
        await self._writer.close()
