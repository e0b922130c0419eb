"""The producer's connection: an idempotent aiokafka client, made when needed, thrown away when lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from schemas.errors import BrokerUnavailable, ConfigurationError, HeadwaterError, RecordTooLarge
from streams.kafka import client_options, why
from streams.settings import Settings

log = structlog.get_logger()

OVERHEAD_BYTES = 64 * 1024
"""What topics allow beyond `max_record_bytes` for key, headers and framing (`streams.admin`)."""
MAX_BATCH_BYTES = 512 * 1024
_REQUEST_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2 * _REQUEST_TIMEOUT_S


@dataclass(frozen=True)
class Refused:
    """Kafka refused a batch and would refuse it again."""

    error: HeadwaterError
    too_large: bool = False


def refusal(error: BaseException, topic: str) -> Refused | None:
    """What a caller is told of an error that no retry mends; None where one may."""
    if isinstance(error, ConfigurationError):
        return Refused(error)
    if isinstance(error, (MessageSizeTooLargeError, RecordListTooLargeError)):
        return Refused(
            RecordTooLarge(
                f"the broker refused a record for {topic} as too large",
                hint="raise max.message.bytes of the topic, or lower HEADWATER_MAX_RECORD_BYTES",
            ),
            too_large=True,
        )
    if isinstance(error, InvalidTopicError):
        return Refused(_missing(topic))
    if isinstance(error, (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)):
        return Refused(
            ConfigurationError(
                f"Kafka does not let this user write to {topic}",
                hint="grant Write and IdempotentWrite to HEADWATER_KAFKA_USERNAME",
            )
        )
    return None


def _missing(topic: str) -> ConfigurationError:
    return ConfigurationError(f"topic {topic} does not exist", hint="run `headwater topics create`")


class Client:
    """A connected aiokafka producer. `lost` is set once it is thrown away: what it held is not awaited."""

    def __init__(self, kafka: Any) -> None:
        self.kafka = kafka
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Connection:
    """At most one live client; `client()` connects anew after `drop()`."""

    def __init__(self, settings: Settings) -> None:
        self.last_error: Exception | None = None
        self.batch_bytes = min(MAX_BATCH_BYTES, settings.max_record_bytes)
        self._settings = settings
        self._client: Client | None = None
        self._lock = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._counts: dict[str, int] = {}

    async def client(self) -> Client:
        """A connected client.

        Raises ConfigurationError where no retry can mend it, BrokerUnavailable when Kafka is away.
        """
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    self._client = Client(await self._connect())
        return self._client

    async def partitions(self, topic: str) -> int:
        """Partition count of a topic (Kafka's name of it).

        Raises ConfigurationError if there is no such topic, KafkaError while Kafka does not say.
        """
        if topic not in self._counts:
            async with self._asking:  # all topics are in the answer: whoever waits here needs none of his own
                if topic not in self._counts:
                    client = await self.client()
                    cluster = await client.kafka.client.fetch_all_metadata()
                    known = cluster.partitions_for_topic(topic)
                    if not known:
                        raise _missing(topic)
                    self._counts[topic] = len(known)
        return self._counts[topic]

    async def refused(self, error: BaseException, topic: str) -> Refused | None:
        """As `refusal`, once Kafka was asked whether an unknown topic is there.

        aiokafka calls a topic unknown, too, where Kafka did not answer for ten seconds.
        """
        if not isinstance(error, UnknownTopicOrPartitionError):
            return refusal(error, topic)
        self._counts.pop(topic, None)
        try:
            await self.partitions(topic)
        except ConfigurationError as missing:
            return Refused(missing)
        except (KafkaError, OSError, BrokerUnavailable):
            return None
        return None

    def drop(self, client: Client) -> None:
        """Throw a client away in the background."""
        if client is self._client:
            self._client = None
            self._counts.clear()
            client.lost.set_result(None)
            task = asyncio.get_running_loop().create_task(_discard(client.kafka))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the client, and wait for those thrown away."""
        if self._client is not None:
            self.drop(self._client)
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_TIMEOUT_S)

    async def _connect(self) -> Any:
        limit = self._settings.max_record_bytes + OVERHEAD_BYTES
        client = AIOKafkaProducer(
            **client_options(self._settings),
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_request_size=limit,
            request_timeout_ms=int(_REQUEST_TIMEOUT_S * 1000),
            metadata_max_age_ms=60_000,
        )
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                await client.start()
        except BaseException as error:
            await client.stop()
            if isinstance(error, (KafkaError, OSError)):
                raise await why(self._settings, error) from error
            raise
        return client


async def _discard(kafka: Any) -> None:
    """Close an aiokafka producer without the flush of its stop(), which never ends while Kafka is away.

    The sender first: its last request needs the client to come to an end.
    """
    try:
        kafka._closed = True  # noqa: SLF001 - aiokafka has no public way to stop without a flush
        await kafka._sender.close()  # noqa: SLF001
        await kafka.client.close()
    except Exception:
        log.exception("producer.discard_failed")
