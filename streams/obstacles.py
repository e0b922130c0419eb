"""What stands in the way of Kafka, in words: what it is, and what to do.

What no retry mends (a login, a certificate, a listener of another kind, a right) is a ConfigurationError.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple

from aiokafka import errors as kafka

from schemas.errors import BrokerUnavailable, ConfigurationError, HeadwaterError
from streams.settings import Settings

_WRONG_CERTIFICATE_NAME = {62, 64}
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_RIGHTS = {
    kafka.TopicAuthorizationFailedError: "its topics",
    kafka.GroupAuthorizationFailedError: "its consumer groups",
    kafka.TransactionalIdAuthorizationFailed: "its transactional ids",
    kafka.ClusterAuthorizationFailedError: "the cluster",
}
_REFUSALS = (
    kafka.UnsupportedVersionError,
    kafka.IncompatibleBrokerVersion,
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidTransactionTimeout,
    kafka.InvalidTopicError,
    kafka.InvalidGroupIdError,
    kafka.PolicyViolationError,
)


class Address(NamedTuple):
    """Where Kafka is said to be."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def addresses(bootstrap: str) -> list[Address]:
    """The addresses of `host:port,…`."""
    parts = (one.strip().rpartition(":") for one in bootstrap.split(","))
    return [Address(host.strip("[]"), int(port)) for host, _, port in parts]


def hopeless(settings: Settings, error: BaseException) -> ConfigurationError | None:
    """An error of a Kafka client in words where no retry can mend it; None where one may."""
    for one in causes(error):
        if isinstance(one, tuple(_RIGHTS)):
            what = _RIGHTS[type(one)]
            return ConfigurationError(
                f"Kafka gives {_user(settings)} no right to {what}: {one}",
                hint="docs/cluster.md says which rights Headwater needs",
            )
        if isinstance(one, kafka.SaslAuthenticationFailed):
            return ConfigurationError(
                f"Kafka refused the login of {_user(settings)} by {settings.kafka_mechanism}: "
                "wrong password, or no such user",
                hint="see HEADWATER_KAFKA_USERNAME, HEADWATER_KAFKA_PASSWORD and HEADWATER_KAFKA_MECHANISM",
            )
        if isinstance(one, kafka.UnsupportedSaslMechanismError):
            return ConfigurationError(
                f"Kafka takes no login by {settings.kafka_mechanism}: {one}",
                hint="set HEADWATER_KAFKA_MECHANISM to one that it has",
            )
        if isinstance(one, _REFUSALS):
            return ConfigurationError(f"Kafka refuses us: {one}", hint="see the broker's configuration")
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__


def certificate(at: Address, error: ssl.SSLCertVerificationError, *, own: bool) -> ConfigurationError:
    """Why a certificate is not taken; `own`: a CA is set, so it is not the system's that do not know it."""
    if error.verify_code in _WRONG_CERTIFICATE_NAME:
        return ConfigurationError(
            f"the certificate of {at} is another host's: {error.verify_message}",
            hint="set HEADWATER_KAFKA to the name that stands in the certificate",
        )
    return ConfigurationError(
        f"the certificate of {at} is not trusted: {error.verify_message}",
        hint="HEADWATER_KAFKA_CA holds another CA than the one that signed it"
        if own
        else "set HEADWATER_KAFKA_CA to the CA that signed it: the system's do not know it",
    )


def alert(at: Address, error: BaseException) -> ConfigurationError | None:
    """What the other side has against our side of TLS; mostly our certificate, or that we have none."""
    for one in causes(error):
        if isinstance(one, ssl.SSLError) and "ALERT" in (one.reason or ""):
            return ConfigurationError(
                f"{at} refuses our side of TLS: {(one.reason or '').lower().replace('_', ' ')}",
                hint="it may ask for a certificate: see HEADWATER_KAFKA_CERT and HEADWATER_KAFKA_KEY",
            )
    return None


def other_kind(at: Address, what: str, security: str, wanted: str) -> ConfigurationError:
    """A listener that expects another security than the one that is set."""
    return ConfigurationError(
        f"{at} {what}, and HEADWATER_KAFKA_SECURITY is {security}",
        hint=f"set HEADWATER_KAFKA_SECURITY to {wanted}, or HEADWATER_KAFKA to another listener's port",
    )


def advertised(at: Address, obstacle: HeadwaterError) -> HeadwaterError:
    """The obstacle at an address that is none of ours, but one that the cluster gave."""
    return type(obstacle)(
        f"the cluster sends its clients to {at}: {obstacle.message}",
        hint=f"{obstacle.hint}; or mend advertised.listeners of the broker",
    )


def together(obstacles: list[HeadwaterError]) -> HeadwaterError:
    """The obstacles at several addresses as one."""
    if len(obstacles) == 1:
        return obstacles[0]
    return BrokerUnavailable(
        "; ".join(dict.fromkeys(obstacle.message for obstacle in obstacles)), hint=obstacles[0].hint
    )


def _user(settings: Settings) -> str:
    return f"user {settings.kafka_username}" if settings.kafka_username else "a client without a login"
