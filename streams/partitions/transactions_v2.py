"""Transactions by Kafka's second protocol for them (KIP-890; Kafka 4), which aiokafka's producer lacks.

A partition or a group becomes a part of the transaction by being written to, so that a transaction is
three requests instead of five, and half of the CPU on both sides. Each transaction has an epoch of its
own: what belongs to an earlier one can never slip into a later one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    NotCoordinatorForGroupError,
    ProducerFenced,
    RequestTimedOutError,
    for_code,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.kafka import close
from streams.partitions import requests
from streams.partitions.log import Send, Step
from streams.producing.partitioner import partition_for

FEATURE, LEVEL = "transaction.version", 2
_BATCH_BYTES = 1024 * 1024
TIMEOUT_MS = 10_000
"""A dead worker's open transaction holds back read_committed readers no longer than this."""
_RETRY_S = 0.01
"""Mostly the markers of the last transaction are being written, which is soon done."""
_FENCED = {47, 90}
"""INVALID_PRODUCER_EPOCH and PRODUCER_FENCED."""
_ALREADY_THERE = 46
"""DUPLICATE_SEQUENCE_NUMBER: an attempt whose answer was lost had succeeded."""
_LOST_COORDINATOR = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    NodeNotReadyError,
    NotCoordinatorForGroupError,
    RequestTimedOutError,
)


def grouped(
    sends: Sequence[Send], topics: Mapping[str, str], counts: Mapping[str, int]
) -> dict[TopicPartition, list[Send]]:
    """Sends by where they go, in their order; `topics` are their names in Kafka, `counts` their partitions."""
    found: dict[TopicPartition, list[Send]] = {}
    for send in sends:
        partition = send.partition
        if partition is None:
            partition = partition_for(send.key, counts[send.topic])
        found.setdefault(TopicPartition(topics[send.topic], partition), []).append(send)
    return found


async def spoken(client: AIOKafkaClient) -> bool:
    """Whether the cluster speaks this protocol. Raises KafkaError."""
    node = client.get_random_node()
    if node is None:
        raise NodeNotReadyError("no node of the cluster is known")
    try:
        answer = await client.send(node, requests.ask_versions())
    except NotImplementedError:  # of aiokafka: the broker is older than the request
        return False
    return requests.level(answer, FEATURE) >= LEVEL


class TransactionsV2:
    """The transactions of one transactional id. Anything that is raised leaves the outcome to the log.

    `client` is its own: it is closed with it. `named` gives a topic's name in Kafka.
    """

    def __init__(
        self, client: AIOKafkaClient, transactional_id: str, named: Callable[[str], str], step: Step
    ) -> None:
        self._client = client
        self._named = named
        self._me = requests.Producer(transactional_id, -1, -1)
        self._step = step
        self._sequences: dict[TopicPartition, int] = {}
        self._coordinators: dict[tuple[CoordinationType, str], int] = {}

    async def take_over(self) -> None:
        """Fence whoever wrote before. Raises KafkaError, mostly to be tried again."""
        id_ = self._me.transactional_id
        answer = await self._ask_coordinator(
            CoordinationType.TRANSACTION, id_, requests.init_producer_id(id_, TIMEOUT_MS)
        )
        _check(answer.error_code)
        self._next(answer)

    async def commit(self, sends: Sequence[Send], group: str, tp: TopicPartition, offset: int) -> None:
        """Write all of `sends` and the group's position, or nothing. Raises ProducerFenced, KafkaError."""
        self._step("commit.begun")
        *first, last = list(self._rounds(await self._by_partition(sends))) or [{}]
        for batches in first:
            await self._produce(batches)
        # Both at once: a broker takes the requests of a connection one after the other. Where these go
        # to several brokers, one may find the coordinator at work for the other, and is repeated.
        position = requests.commit_offset(self._me, group, tp, offset)
        writing = [
            asyncio.ensure_future(self._produce(last)),
            asyncio.ensure_future(self._commit_position(group, position)),
        ]
        try:
            await asyncio.sleep(0)
            self._step("commit.sent")
            await writing[0]
            self._step("commit.written")
            await writing[1]
        finally:
            for task in writing:
                task.cancel()
            await asyncio.gather(*writing, return_exceptions=True)
        self._step("commit.offsets")
        await self._repeated(self._end)
        self._step("commit.done")

    async def close(self) -> None:
        """Disconnect."""
        await close(self._client)

    async def _partitions(self, topic: str) -> int:
        return len(await self._client._wait_on_metadata(topic))  # noqa: SLF001 - as aiokafka's producer does

    async def _by_partition(self, sends: Sequence[Send]) -> dict[TopicPartition, list[Send]]:
        topics = {send.topic: self._named(send.topic) for send in sends}
        counts = {topic: await self._partitions(named) for topic, named in topics.items()}
        return grouped(sends, topics, counts)

    def _rounds(
        self, by_partition: Mapping[TopicPartition, list[Send]]
    ) -> Iterator[dict[TopicPartition, bytes]]:
        """A batch of each partition at a time: a request may have no more."""
        waiting = {tp: self._batches(tp, sends) for tp, sends in by_partition.items()}
        while batches := {tp: batch for tp, rest in waiting.items() if (batch := next(rest, None))}:
            yield batches

    def _batches(self, tp: TopicPartition, sends: Iterable[Send]) -> Iterator[bytes]:
        batch, count = self._batch(tp), 0
        for send in sends:
            record = None, send.key, send.value, list(send.headers)
            if batch.append(count, *record) is None:  # full; an empty one takes whatever it is given
                yield self._built(tp, batch, count)
                batch, count = self._batch(tp), 0
                batch.append(count, *record)
            count += 1
        yield self._built(tp, batch, count)

    def _batch(self, tp: TopicPartition) -> Any:
        return DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=True,
            producer_id=self._me.id,
            producer_epoch=self._me.epoch,
            base_sequence=self._sequences.get(tp, 0),
            batch_size=_BATCH_BYTES,
        )

    def _built(self, tp: TopicPartition, batch: Any, count: int) -> bytes:
        self._sequences[tp] = self._sequences.get(tp, 0) + count
        return bytes(batch.build())

    async def _produce(self, batches: Mapping[TopicPartition, bytes]) -> None:
        """Append batches, at all leaders at once; those that may pass are tried again, with the same sequences."""
        left = dict(batches)
        while left:
            by_node: dict[int, dict[TopicPartition, bytes]] = {}
            for tp, batch in left.items():
                by_node.setdefault(await self._leader(tp), {})[tp] = batch
            at = [self._produce_at(node, some) for node, some in by_node.items()]
            # No task where one node leads all: the records are to be under way before the position is.
            done = [await at[0]] if len(at) == 1 else await asyncio.gather(*at)
            for tp in (tp for some in done for tp in some):
                del left[tp]
            if left:
                await asyncio.sleep(_RETRY_S)

    async def _produce_at(self, node: int, batches: Mapping[TopicPartition, bytes]) -> list[TopicPartition]:
        """The partitions to which their batches were appended; the others may be tried again."""
        try:
            answer = await self._client.send(node, requests.produce(self._me, batches, TIMEOUT_MS))
        except KafkaError as error:
            await self._learn(error)
            return []
        appended: list[TopicPartition] = []
        errors: dict[int, KafkaError] = {}
        for topic, partitions, _ in answer.topics:
            for partition, code, *_ in partitions:
                if code in {0, _ALREADY_THERE}:
                    appended.append(TopicPartition(topic, partition))
                else:
                    errors[code] = _error(code, topic)
        for refusal in errors.values():
            await self._learn(refusal)
        return appended

    async def _leader(self, tp: TopicPartition) -> int:
        await self._partitions(tp.topic)
        while (node := self._client.cluster.leader_for_partition(tp)) in {None, -1}:
            await asyncio.sleep(_RETRY_S * 10)
            await self._client.force_metadata_update()
        return int(node)

    async def _commit_position(self, group: str, position: Any) -> None:
        async def attempt() -> None:
            answer = await self._ask_coordinator(CoordinationType.GROUP, group, position)
            for _, partitions, _ in answer.topics:
                for _, code, *_ in partitions:
                    _check(code)

        await self._repeated(attempt)

    async def _end(self) -> None:
        answer = await self._ask_coordinator(
            CoordinationType.TRANSACTION, self._me.transactional_id, requests.end(self._me)
        )
        _check(answer.error_code)
        self._next(answer)

    def _next(self, answer: Any) -> None:
        """Go on with the epoch, and at times the id, that the coordinator gave; records are counted from 0."""
        self._me = requests.Producer(self._me.transactional_id, answer.producer_id, answer.producer_epoch)
        self._sequences = {}

    async def _ask_coordinator(self, kind: CoordinationType, key: str, request: Any) -> Any:
        node = self._coordinators.get((kind, key))
        if node is None:
            node = self._coordinators[kind, key] = await self._client.coordinator_lookup(kind, key)
        return await self._client.send(node, request)

    async def _repeated(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Until it is done: a coordinator that did it before answers as if it did it now."""
        while True:
            try:
                return await attempt()
            except KafkaError as error:
                await self._learn(error)
                await asyncio.sleep(_RETRY_S)

    async def _learn(self, error: KafkaError) -> None:
        """Make ready for another attempt. Raises the error where none would help."""
        if not error.retriable and not isinstance(error, ConcurrentTransactions):
            raise error
        if isinstance(error, _LOST_COORDINATOR):
            self._coordinators.clear()
        if error.invalid_metadata or isinstance(error, NodeNotReadyError):
            await self._client.force_metadata_update()


def _check(code: int) -> None:
    if code:
        raise _error(code, f"error {code}")


def _error(code: int, about: str) -> KafkaError:
    return ProducerFenced() if code in _FENCED else for_code(code)(about)
