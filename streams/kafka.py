"""How this instance's processes reach Kafka: one place for addresses, security and timeouts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from schemas.codec import Record
from schemas.errors import BrokerUnavailable, HeadwaterError
from streams import exploring, lost_connections
from streams.obstacles import hopeless
from streams.security import tls_context
from streams.settings import Settings

log = structlog.get_logger()
T = TypeVar("T")
COMMAND_S = 5.0
"""How long a command tries to reach Kafka: somebody waits. Processes try longer, a cluster may come later."""
_CLOSE_S = 2.0


lost_connections.mend()


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "client_id": "headwater",
        "security_protocol": settings.kafka_security,
    }
    if settings.kafka_security.endswith("SSL"):
        options["ssl_context"] = tls_context(settings)
    if settings.kafka_security.startswith("SASL"):
        assert settings.kafka_password is not None, "settings without a password are refused"
        options["sasl_mechanism"] = settings.kafka_mechanism
        options["sasl_plain_username"] = settings.kafka_username
        options["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return options


def records_of(messages: Iterable[Any], namespace: str) -> list[Record]:
    """What aiokafka read, as our records: topic without namespace, broker's time in seconds."""
    prefix = len(namespace) + 1 if namespace else 0
    return [
        Record(m.topic[prefix:], m.partition, m.offset, m.timestamp / 1000, m.key, m.value, m.headers)
        for m in messages
    ]


async def why(settings: Settings, error: BaseException) -> HeadwaterError:
    """What stands in the way of a client that failed with `error`; takes up to some seconds."""
    return await exploring.why(settings, client_options(settings), error)


async def connect(settings: Settings, client: Any, deadline_s: float) -> None:
    """Start an aiokafka client; repeated while Kafka is away.

    Raises ConfigurationError at once where no retry can mend it, BrokerUnavailable after `deadline_s`;
    the client is closed then.
    """
    loop = asyncio.get_running_loop()
    begin = client.bootstrap if isinstance(client, AIOKafkaClient) else client.start
    end = loop.time() + deadline_s
    delay, told = 0.1, False
    try:
        while True:
            try:
                async with asyncio.timeout_at(end):
                    await begin()
                    return
            except (KafkaError, OSError) as error:
                reason = await why(settings, error)
                if not reason.retriable or loop.time() + delay > end:
                    raise reason from error
                if not told and deadline_s > COMMAND_S:
                    log.warning("kafka.away", why=reason.message, trying_for_s=round(end - loop.time()))
                    told = True
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)
    except BaseException:
        await close(client)
        raise


async def close(client: Any) -> None:
    """Stop an aiokafka client without waiting for what cannot be sent any more."""
    stop = client.close if hasattr(client, "close") else client.stop
    stopping = asyncio.ensure_future(stop())
    # Not wait_for: while Kafka is away stop() ends with the cancellation of a task of its own.
    await asyncio.wait({stopping}, timeout=_CLOSE_S)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)


async def patiently(
    settings: Settings, what: str, attempt: Callable[[], Awaitable[T]], deadline_s: float
) -> T:
    """Repeat `attempt` while Kafka refuses or is away.

    Raises ConfigurationError at once where no retry can mend it, BrokerUnavailable after `deadline_s`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    delay = 0.1
    while True:
        try:
            async with asyncio.timeout_at(end):
                return await attempt()
        except (KafkaError, OSError) as error:
            if (refusal := hopeless(settings, error)) is not None:
                raise refusal from error
            if loop.time() + delay > end:
                raise BrokerUnavailable(
                    f"{what}: Kafka did not answer within {deadline_s:.0f} s ({error!r})",
                    hint="see `headwater status` and the broker's log",
                ) from error
            log.debug("kafka.retry", what=what, error=repr(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)
