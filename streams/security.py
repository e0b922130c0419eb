"""SASL and TLS on the way to Kafka: which settings belong together, and the TLS context that they make."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.settings import Settings

_SECURITY = ("security", "mechanism", "username", "password", "ca", "cert", "key")
_SASL, _TLS = "SASL_SSL or SASL_PLAINTEXT", "SSL or SASL_SSL"
_FOR = {"mechanism": _SASL, "username": _SASL, "password": _SASL, "ca": _TLS, "cert": _TLS, "key": _TLS}


class _Encrypted(Exception):
    """The private key is encrypted; OpenSSL would ask the terminal for its passphrase."""


def contradictions(settings: Settings) -> list[str]:
    """What the settings of Kafka's security contradict or lack, one sentence each, naming the settings."""
    fields = type(settings).model_fields
    given = [n for n in _SECURITY if getattr(settings, f"kafka_{n}") != fields[f"kafka_{n}"].default]
    security = settings.kafka_security
    if settings.kafka is None:
        if given:
            names = ", ".join(f"HEADWATER_KAFKA_{name.upper()}" for name in given)
            return [f"{names}: for a cluster of yours, and HEADWATER_KAFKA does not say where it is"]
        return []
    sasl, tls = security.startswith("SASL"), security.endswith("SSL")
    found = [
        f"HEADWATER_KAFKA_{name.upper()} is missing: HEADWATER_KAFKA_SECURITY is {security}"
        for name in ("username", "password")
        if sasl and not _text(settings, name)
    ]
    found += [
        f"HEADWATER_KAFKA_{name.upper()} is for {_FOR[name]}: HEADWATER_KAFKA_SECURITY is {security}"
        for name in given
        if name != "security" and security not in _FOR[name].split(" or ")
    ]
    if settings.kafka_key is not None and settings.kafka_cert is None:
        found.append("HEADWATER_KAFKA_CERT is missing: HEADWATER_KAFKA_KEY is the key of a certificate")
    if tls and not found:
        found += _unreadable(settings)
    return found


def tls_context(settings: Settings) -> ssl.SSLContext:
    """For TLS with Kafka: the CA of the settings or the system's, a certificate of ours where one is set.

    Raises OSError (ssl.SSLError is one) where a file is not what it has to be.
    """
    context = ssl.create_default_context(cafile=str(settings.kafka_ca) if settings.kafka_ca else None)
    if settings.kafka_cert is not None:
        context.load_cert_chain(settings.kafka_cert, settings.kafka_key, password=_refuse)
    return context


def _text(settings: Settings, name: str) -> str | None:
    if name == "password":
        return settings.kafka_password.get_secret_value() if settings.kafka_password else None
    return settings.kafka_username


def _unreadable(settings: Settings) -> list[str]:
    """A file that is missing or of another kind; told for each, since OpenSSL does not say which it was."""
    found = []
    for name in ("ca", "cert", "key"):
        path = getattr(settings, f"kafka_{name}")
        if path is not None:
            try:
                path.read_bytes()
            except OSError as error:
                found.append(f"HEADWATER_KAFKA_{name.upper()}: {path}: {error.strerror}")
    if found:
        return found
    try:
        ssl.create_default_context(cafile=settings.kafka_ca)
    except OSError:
        return [f"HEADWATER_KAFKA_CA: {settings.kafka_ca} holds no certificates in PEM"]
    try:
        tls_context(settings)
    except _Encrypted:
        return ["HEADWATER_KAFKA_KEY: the private key is encrypted: give it without a passphrase"]
    except OSError as error:
        what = getattr(error, "reason", None) or error
        return [f"HEADWATER_KAFKA_CERT, HEADWATER_KAFKA_KEY: no certificate with its private key ({what})"]
    return []


def _refuse() -> bytes:
    raise _Encrypted
