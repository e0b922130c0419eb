"""Asks each address of Kafka as our clients would: aiokafka only says that it was unable to bootstrap."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, NamedTuple

from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from schemas.errors import BrokerUnavailable, ConfigurationError, HeadwaterError
from streams.obstacles import (
    Address,
    addresses,
    advertised,
    alert,
    causes,
    certificate,
    hopeless,
    other_kind,
    together,
)
from streams.settings import Settings

ANSWER_S = 3.0


async def why(settings: Settings, options: dict[str, Any], error: BaseException) -> HeadwaterError:
    """What stands in the way of a client that failed with `error`; `options` are those of our clients."""
    known = hopeless(settings, error)
    if known is not None:
        return known
    found = await explore(settings, options)
    return found.unusable or BrokerUnavailable(
        f"Kafka at {settings.bootstrap}: {error!r}", hint="see `headwater doctor` and the broker's log"
    )


class Found(NamedTuple):
    """What stands in the way by address, None where nothing does: of those given, and of the cluster's own."""

    given: dict[Address, HeadwaterError | None]
    brokers: dict[Address, HeadwaterError | None]

    @property
    def unusable(self) -> HeadwaterError | None:
        """Why no client can work with any of them; what no retry mends goes before what one may."""
        standing = (self.brokers or self.given).values()
        obstacles = [obstacle for obstacle in standing if obstacle is not None]
        if len(obstacles) < len(standing):
            return None
        permanent = [obstacle for obstacle in obstacles if not obstacle.retriable]
        return permanent[0] if permanent else together(obstacles)


async def explore(settings: Settings, options: dict[str, Any]) -> Found:
    """Ask each address of the settings, and then those that the cluster sends its clients to."""
    ask = _Asking(settings, {k: v for k, v in options.items() if k != "bootstrap_servers"})
    given = addresses(settings.bootstrap)
    answers = dict(zip(given, await asyncio.gather(*map(ask.brokers, given)), strict=True))
    asked = {one: got if isinstance(got, HeadwaterError) else None for one, got in answers.items()}
    named = sorted({b for got in answers.values() if not isinstance(got, HeadwaterError) for b in got})
    new = [one for one in named if one not in asked]
    brokers = {one: asked[one] for one in named if one in asked}
    for one, got in zip(new, await asyncio.gather(*map(ask.brokers, new)), strict=True):
        brokers[one] = advertised(one, got) if isinstance(got, HeadwaterError) else None
    return Found(asked, brokers)


class _Asking:
    """Asks addresses what a client of ours would."""

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        self._settings = settings
        self._options = options

    async def brokers(self, at: Address) -> set[Address] | HeadwaterError:
        """The brokers that this one names; or what stands in the way of asking it."""
        try:
            async with asyncio.timeout(ANSWER_S):
                connection = await self._connect(at)
                try:
                    answer = await connection.send(MetadataRequest([]))
                finally:
                    connection.close()
        except (kafka.KafkaError, OSError, EOFError) as error:
            return await self._in_words(at, error)
        return {Address(host, port) for _, host, port, *_ in answer.brokers}

    async def _connect(self, at: Address, **options: Any) -> AIOKafkaConnection:
        ours = self._options | {"request_timeout_ms": int(ANSWER_S * 1000)} | options
        return await create_conn(at.host, at.port, **ours)

    async def _in_words(self, at: Address, error: BaseException) -> HeadwaterError:
        for one in causes(error):
            if isinstance(one, ssl.SSLCertVerificationError):
                return certificate(at, one, own=self._settings.kafka_ca is not None)
            if isinstance(one, socket.gaierror):
                return BrokerUnavailable(
                    f"the host {at.host} is not known", hint="see HEADWATER_KAFKA, and the name server"
                )
            if isinstance(one, ConnectionRefusedError):
                return BrokerUnavailable(
                    f"nobody listens at {at}",
                    hint="start it (`headwater up`), or set HEADWATER_KAFKA to where it is"
                    if self._settings.embedded
                    else "start Kafka, or set HEADWATER_KAFKA to where it is",
                )
        if isinstance(error, TimeoutError):
            return BrokerUnavailable(
                f"{at} did not answer within {ANSWER_S:.0f} s",
                hint="see HEADWATER_KAFKA, what is between here and there, and the broker's log",
            )
        return (
            hopeless(self._settings, error)
            or await self._of_another_kind(at, error)
            or alert(at, error)
            or BrokerUnavailable(f"{at} closed the connection ({error})", hint="see the broker's log")
        )

    async def _of_another_kind(self, at: Address, error: BaseException) -> ConfigurationError | None:
        """Whether the listener expects another security than we are set to."""
        security = self._settings.kafka_security
        sasl = "SASL_" if security.startswith("SASL") else ""
        if security.endswith("SSL"):
            if await self._speaks(at, "PLAINTEXT"):
                return other_kind(at, "speaks no TLS", security, f"{sasl}PLAINTEXT")
        elif await self._speaks(at, "SSL"):
            return other_kind(at, "speaks TLS", security, f"{sasl}SSL")
        if isinstance(error, kafka.IllegalSaslStateError):
            return other_kind(at, "takes no login", security, security.removeprefix("SASL_"))
        if not sasl and (mechanisms := await self._mechanisms(at)):
            return other_kind(
                at,
                f"wants a login ({', '.join(mechanisms)})",
                security,
                f"SASL_{security}, with HEADWATER_KAFKA_USERNAME and HEADWATER_KAFKA_PASSWORD",
            )
        return None

    async def _speaks(self, at: Address, security: str) -> bool:
        """Whether a listener of this kind is there, whoever's certificate it has."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            async with asyncio.timeout(ANSWER_S):
                if security == "SSL":
                    _, writer = await asyncio.open_connection(at.host, at.port, ssl=context)
                    writer.close()
                else:
                    (await self._connect(at, security_protocol=security)).close()
        except (kafka.KafkaError, OSError, EOFError):
            return False
        return True

    async def _mechanisms(self, at: Address) -> list[str]:
        """How a listener wants its clients to log in; none where it does not."""
        try:
            async with asyncio.timeout(ANSWER_S):
                connection = await self._connect(at)
                try:
                    answer = await connection.send(SaslHandShakeRequest(self._settings.kafka_mechanism))
                finally:
                    connection.close()
        except (kafka.KafkaError, OSError, EOFError):
            return []
        return list(answer.enabled_mechanisms)
