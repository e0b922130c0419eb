"""The two logs that the contract suite runs on, each with the topics of one partition task."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from aiokafka import AIOKafkaProducer

from schemas import topics
from schemas.codec import Record
from schemas.envelope import Headers
from streams.admin import TopicSpec, declared, ensure_topics
from streams.kafka import client_options
from streams.partitions.kafka_log import KafkaLog
from streams.partitions.log import Log
from streams.partitions.memory_log import MemoryLog
from streams.settings import Settings
from tests.streams.harness import CHANGELOG, SIGNALS, TICKS

NAMES = (
    SIGNALS,
    CHANGELOG,
    TICKS,
    topics.versions(SIGNALS),
    topics.FOLDS.name,
    topics.ANOMALIES.name,
    topics.DEAD_LETTERS.name,
)
OUT = topics.ANOMALIES.name
OUT_PARTITIONS = 3


class Rig(Protocol):
    """A log with the topics NAMES, all empty; OUT has OUT_PARTITIONS partitions, the others one."""

    log: Log

    async def replace(self) -> None:
        """Take SIGNALS/0 over as another process does."""

    async def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Write to partition 0 as a foreign producer does, outside any transaction."""


def nothing(_: str) -> None:
    """No crash."""


async def everything(log: Log, topic: str, partition: int = 0) -> list[Record]:
    """All that a reader sees between the bounds."""
    first, end = await log.bounds(topic, partition)
    return [r async for batch in log.read(topic, partition, first, end) for r in batch]


class MemoryRig:
    """In memory."""

    def __init__(self) -> None:
        self.memory = MemoryLog({n: OUT_PARTITIONS if n == OUT else 1 for n in NAMES})
        self.log: Log = self.memory

    async def replace(self) -> None:
        """See Rig."""
        await (await self.memory.fence(SIGNALS, 0, nothing)).close()

    async def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """See Rig."""
        self.memory.append(topic, key, value, headers, 0)  # type: ignore[arg-type]  # Kafka has null keys


class KafkaRig:
    """On a real broker, in a namespace of its own."""

    def __init__(self, settings: Settings, log: KafkaLog, producer: AIOKafkaProducer) -> None:
        self.settings = settings
        self.log: Log = log
        self._second_protocol = log._second_protocol
        self._producer = producer

    async def replace(self) -> None:
        """See Rig."""
        log = _log(self.settings, second_protocol=self._second_protocol)
        await log.start()
        await (await log.fence(SIGNALS, 0, nothing)).close()
        await log.close()

    async def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """See Rig."""
        await self._producer.send_and_wait(
            self.settings.named(topic), value, key, partition=0, headers=list(headers)
        )


@asynccontextmanager
async def kafka_rig(broker: Settings, second_protocol: bool | None = None) -> AsyncIterator[KafkaRig]:
    """A rig on the running broker; by which protocol it writes is otherwise asked of it."""
    settings = broker.model_copy(update={"namespace": f"t{uuid.uuid4().hex[:8]}", "partitions": 1})
    specs = {spec.name: spec for spec in declared(settings)}
    ticks = TopicSpec(TICKS, 1, specs[OUT].config)
    changelog = TopicSpec(CHANGELOG, 1, specs[OUT].config | {"cleanup.policy": "compact"})
    beside = TopicSpec(topics.versions(SIGNALS), 1, specs[OUT].config)
    own = {CHANGELOG: changelog, TICKS: ticks, topics.versions(SIGNALS): beside}
    await ensure_topics(
        settings,
        [TopicSpec(n, OUT_PARTITIONS if n == OUT else 1, (own.get(n) or specs[n]).config) for n in NAMES],
    )
    log = _log(settings, second_protocol=second_protocol)
    await log.start()
    producer = AIOKafkaProducer(**client_options(settings), max_request_size=8 * 1024 * 1024)
    await producer.start()
    try:
        yield KafkaRig(settings, log, producer)
    finally:
        await producer.stop()
        await log.close()


def _log(settings: Settings, *, second_protocol: bool | None) -> KafkaLog:
    log = KafkaLog(settings)
    log._second_protocol = second_protocol
    return log
