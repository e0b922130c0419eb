"""Transactions by aiokafka's producer: for clusters that do not speak Kafka's second protocol for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from streams.kafka import close
from streams.partitions.log import Send, Step
from streams.partitions.transactions_v2 import TIMEOUT_MS, grouped

_RETRY_BACKOFF_MS = 10
"""aiokafka waits this long, 100 ms by default, while the last transaction's markers are being written."""


def producer_of(options: Mapping[str, Any], transactional_id: str, max_record_bytes: int) -> AIOKafkaProducer:
    """A producer for one input partition; its start fences the one before."""
    return AIOKafkaProducer(
        **options,
        transactional_id=transactional_id,
        transaction_timeout_ms=TIMEOUT_MS,
        max_batch_size=1024 * 1024,
        max_request_size=max_record_bytes + 512 * 1024,
        retry_backoff_ms=_RETRY_BACKOFF_MS,
        linger_ms=0,
    )


class TransactionsV1:
    """See `streams.partitions.transactions_v2.TransactionsV2`."""

    def __init__(self, producer: AIOKafkaProducer, named: Callable[[str], str], step: Step) -> None:
        self._producer = producer
        self._named = named
        self._step = step

    async def commit(self, sends: Sequence[Send], group: str, tp: TopicPartition, offset: int) -> None:
        """Write all of `sends` and the group's position, or nothing. Raises ProducerFenced, KafkaError."""
        producer = self._producer
        await producer.begin_transaction()
        self._step("commit.begun")
        written = await self._write(sends)
        self._step("commit.sent")
        # Records first, then the position: while the coordinator adds the group to the transaction, it
        # refuses to verify partitions, and the records would be retried 100 ms later.
        await asyncio.gather(*written)
        self._step("commit.written")
        await producer.send_offsets_to_transaction({tp: OffsetAndMetadata(offset, "")}, group)
        self._step("commit.offsets")
        await producer.commit_transaction()
        self._step("commit.done")

    async def close(self) -> None:
        """Disconnect."""
        await close(self._producer)

    async def _write(self, sends: Sequence[Send]) -> list[asyncio.Future[Any]]:
        """Batches built here and handed over whole: a quarter of the cost of a send() a record."""
        topics = {send.topic: self._named(send.topic) for send in sends}
        counts = {topic: len(await self._producer.partitions_for(named)) for topic, named in topics.items()}
        futures = []
        for tp, group in grouped(sends, topics, counts).items():
            batch = self._producer.create_batch()
            for send in group:
                if self._append(batch, send):
                    continue
                futures.append(await self._producer.send_batch(batch, tp.topic, partition=tp.partition))
                batch = self._producer.create_batch()
                self._append(batch, send)
            futures.append(await self._producer.send_batch(batch, tp.topic, partition=tp.partition))
        return futures

    @staticmethod
    def _append(batch: Any, send: Send) -> bool:
        return (
            batch.append(key=send.key, value=send.value, timestamp=None, headers=list(send.headers))
            is not None
        )
