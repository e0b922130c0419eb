"""How this instance's processes reach Kafka: one place for addresses, security and timeouts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import structlog
from aiokafka.errors import KafkaError

from schemas.codec import Record
from schemas.errors import BrokerUnavailable
from streams.settings import Settings

log = structlog.get_logger()
T = TypeVar("T")


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "client_id": "headwater",
        "security_protocol": settings.kafka_security,
    }
    if settings.kafka_security.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context(
            cafile=str(settings.kafka_ca) if settings.kafka_ca else None
        )
    if settings.kafka_security.startswith("SASL"):
        options["sasl_mechanism"] = "SCRAM-SHA-512"
        options["sasl_plain_username"] = settings.kafka_username
        options["sasl_plain_password"] = (
            settings.kafka_password.get_secret_value() if settings.kafka_password else None
        )
    return options


def records_of(messages: Iterable[Any], namespace: str) -> list[Record]:
    """What aiokafka read, as our records: topic without namespace, broker's time in seconds."""
    prefix = len(namespace) + 1 if namespace else 0
    return [
        Record(m.topic[prefix:], m.partition, m.offset, m.timestamp / 1000, m.key, m.value, m.headers)
        for m in messages
    ]


async def patiently(what: str, attempt: Callable[[], Awaitable[T]], deadline_s: float) -> T:
    """Repeat `attempt` while Kafka refuses or is away; BrokerUnavailable after `deadline_s`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    delay = 0.1
    while True:
        try:
            return await attempt()
        except (KafkaError, OSError) as error:
            if loop.time() + delay > end:
                raise BrokerUnavailable(
                    f"{what}: Kafka did not answer within {deadline_s:.0f} s ({error!r})",
                    hint="see `headwater status` and the broker's log",
                ) from error
            log.debug("kafka.retry", what=what, error=repr(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)


async def disconnect(client: Any) -> None:
    """Stop an aiokafka client. What its tasks end with while Kafka is away must not look like our own end."""
    stopping = asyncio.ensure_future(client.stop())
    await asyncio.wait({stopping})
    if not stopping.cancelled():
        stopping.result()
