"""What the past is asked of Kafka: where a time lies in the log, and the few records beside a view's history."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from prometheus_client import Counter

from projections.view import Entry, Place
from schemas.codec import Codec, Record
from schemas.errors import BrokerUnavailable, OffsetOutOfRange
from streams.codec import admit
from streams.kafka import client_options, close, connect, records_of
from streams.settings import Settings
from streams.supervision.metrics import REGISTRY
from streams.views.positions import check
from streams.views.positions_kafka import ANSWER_S, CONNECT_S, KafkaOffsets
from streams.views.source import Decoder

_POLL_MS = 100
_LOOK_S = 3.0
"""Where nothing has come yet at an offset, its stamp is waited for in vain. Connecting takes a part of this."""

T = TypeVar("T")
_RECORDS = Counter("headwater_past_records", "Records read to tell how views were.", registry=REGISTRY)


class KafkaPast:
    """See `projections.past.Log`. Connects when first asked, and anew after a failure; `close` it with the process."""

    def __init__(self, settings: Settings, offsets: KafkaOffsets, codec: Codec) -> None:
        self._settings = settings
        self._offsets = offsets
        self._decoder = Decoder(codec, keep_bytes=0)
        self._records = _Reader(settings, codec)
        self._stamps = _Reader(settings, codec)
        """Of its own: what is gone is asked for in vain, and holds up nobody who can be answered."""

    async def check(self, position: Mapping[Place, int]) -> None:
        """See `projections.past.Log`."""
        await check(self._offsets, position)

    async def starts(self, topics: Iterable[str]) -> dict[Place, int]:
        """See `projections.past.Log`."""
        return await self._offsets.starts(topics)

    async def since(self, topics: Iterable[str], ms: int) -> dict[Place, int]:
        """See `projections.past.Log`."""
        return await self._offsets.since(topics, ms)

    async def read(self, ranges: Mapping[Place, tuple[int, int]]) -> list[Entry]:
        """See `projections.past.Log`."""
        if not ranges:
            return []
        records = await self._records.alone(lambda consumer: self._between(consumer, ranges))
        _RECORDS.inc(len(records))
        await self._decoder.learn(records)
        entries, _ = await asyncio.to_thread(self._decoder.entries, records)
        return entries

    async def stamped(self, offsets: Mapping[Place, int], within_s: float) -> int | None:
        """See `projections.past.Log`; at most _LOOK_S."""
        try:
            async with asyncio.timeout(min(within_s, _LOOK_S)):
                return await self._stamps.alone(lambda consumer: self._latest(consumer, offsets))
        except TimeoutError:
            return None

    async def close(self) -> None:
        """Disconnect."""
        await self._records.close()
        await self._stamps.close()

    async def _between(
        self, consumer: AIOKafkaConsumer, ranges: Mapping[Place, tuple[int, int]]
    ) -> list[Record]:
        todo = self._go(consumer, {place: begin for place, (begin, _) in ranges.items()})
        found: list[Record] = []
        while todo:
            for tp, messages in (await consumer.getmany(*todo, timeout_ms=_POLL_MS)).items():
                end = ranges[todo[tp]][1]
                found += records_of((m for m in messages if m.offset < end), self._settings.namespace)
            # Not the last record's offset: markers of transactions take offsets too.
            for tp, place in list(todo.items()):
                if await consumer.position(tp) >= ranges[place][1]:
                    del todo[tp]
                    consumer.pause(tp)
        return found

    async def _latest(self, consumer: AIOKafkaConsumer, offsets: Mapping[Place, int]) -> int:
        """The latest of the stamps at these offsets, or of what comes next there: for as long as it takes."""
        todo, latest = self._go(consumer, offsets), 0
        while todo:
            for tp, messages in (await consumer.getmany(*todo, timeout_ms=_POLL_MS, max_records=1)).items():
                latest = max(latest, messages[0].timestamp)
                del todo[tp]
                consumer.pause(tp)
        return latest

    def _go(self, consumer: AIOKafkaConsumer, offsets: Mapping[Place, int]) -> dict[TopicPartition, Place]:
        tps = {
            TopicPartition(self._settings.named(topic), partition): (topic, partition)
            for topic, partition in offsets
        }
        consumer.assign(list(tps))
        for tp, place in tps.items():
            consumer.seek(tp, offsets[place])
        return tps


class _Reader:
    """A client that reads committed records for one question at a time; one that failed is thrown away."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec
        self._consumer: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def alone(self, ask: Callable[[AIOKafkaConsumer], Awaitable[T]]) -> T:
        """What `ask` finds out. Raises OffsetOutOfRange, BrokerUnavailable."""
        async with self._lock:
            try:
                if self._consumer is None:
                    self._consumer = await self._connected()
                async with asyncio.timeout(ANSWER_S):
                    return await ask(self._consumer)
            except OffsetOutOfRangeError as error:
                await self.close()
                raise OffsetOutOfRange(
                    "the records that tell how it was then are deleted", hint="ask for a later time"
                ) from error
            except (KafkaError, OSError, TimeoutError) as error:
                await self.close()
                raise BrokerUnavailable(
                    f"Kafka did not give the records of then: {error!r}", hint="see `headwater status`"
                ) from error
            finally:
                if self._consumer is not None:
                    self._consumer.assign([])  # else it fetches on

    async def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await close(self._consumer)
        self._consumer = None

    async def _connected(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            # A bucket of ordinary records; Kafka gives one batch even where it is larger.
            max_partition_fetch_bytes=512 * 1024,
            fetch_max_wait_ms=_POLL_MS,
        )
        await connect(self._settings, consumer, CONNECT_S)
        try:
            await admit(self._settings, self._codec)
        except BaseException:
            await close(consumer)
            raise
        return consumer
