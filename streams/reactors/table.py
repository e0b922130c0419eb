"""The newest event of each key of a control topic, in memory and kept up to date."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.codec import Codec
from schemas.errors import DecodeError
from schemas.events import Event
from schemas.topics import Topic
from streams.codec import codec_of, learn_patiently
from streams.kafka import client_options, connect, patiently, records_of
from streams.settings import Settings

log = structlog.get_logger()
_CONNECT_S = 60.0
_POLL_MS = 1_000
_RETRY_S = 1.0


class Row(NamedTuple):
    """An event, its project, and when the broker took it (seconds since 1970)."""

    event: Event
    project: str
    at: float


class Table:
    """A small topic that every worker reads whole. What is written shows here within a moment."""

    def __init__(self, settings: Settings, topic: Topic) -> None:
        self.rows: dict[str, Row] = {}
        """By record key, which is unique over projects."""
        self._settings = settings
        self._topic = topic
        self._codec: Codec | None = None
        self._consumer = AIOKafkaConsumer(
            **client_options(settings),
            group_id=None,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_POLL_MS,
        )
        self._following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read all that there is, then follow. Raises BrokerUnavailable, ConfigurationError as `connect` does."""
        consumer = self._consumer
        await connect(self._settings, consumer, _CONNECT_S)
        self._codec = await codec_of(self._settings)
        name = self._settings.named(self._topic.name)
        partitions = await patiently(self._settings, "reading metadata", self._partitions, _CONNECT_S)
        places = [TopicPartition(name, p) for p in partitions]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            await self._read()
        self._following = asyncio.create_task(self._follow(), name=f"table {self._topic.name}")

    async def close(self) -> None:
        """Disconnect."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self._consumer.stop()

    async def _partitions(self) -> set[int]:
        name = self._settings.named(self._topic.name)
        metadata = await self._consumer._client.fetch_all_metadata()  # noqa: SLF001 - aiokafka has no public way
        found: set[int] | None = metadata.partitions_for_topic(name)
        if not found:
            raise KafkaError(f"no topic {name}")
        return found

    async def _follow(self) -> None:
        while True:
            try:
                await self._read()
            except KafkaError as error:
                log.warning("table.retry", topic=self._topic.name, why=repr(error))
                await asyncio.sleep(_RETRY_S)

    async def _read(self) -> None:
        fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
        assert self._codec is not None, "open() first"
        for messages in fetched.values():
            records = records_of(messages, self._settings.namespace)
            await learn_patiently(self._codec, records)
            for record in records:
                try:
                    decoded = self._codec.decode_record(record)
                except DecodeError as error:
                    log.warning("table.skipped", topic=record.topic, offset=record.offset, why=str(error))
                    continue
                self.rows[decoded.key] = Row(decoded.event, decoded.envelope.project, record.timestamp)
