"""How this instance's processes reach Kafka: one place for addresses, security and timeouts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
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


def record_of(message: Any, namespace: str) -> Record:
    """An aiokafka record as ours: topic without namespace, broker's time in seconds."""
    return Record(
        message.topic[len(namespace) + 1 :] if namespace else message.topic,
        message.partition,
        message.offset,
        message.timestamp / 1000,
        message.key,
        message.value,
        message.headers,
    )


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
