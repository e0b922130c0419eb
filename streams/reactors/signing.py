"""Signatures of webhooks as the Standard Webhooks specification has them (standardwebhooks.com, v1)."""

from __future__ import annotations

import base64
import hashlib
import hmac

from streams.secret import derived_secret

PREFIX = "whsec_"


def secret_for(secret: bytes, project: str, webhook_id: str, version: int) -> bytes:
    """A webhook's own signing secret: derived, so it stands neither in the log nor in a file."""
    return derived_secret(secret, "webhook", project, webhook_id, str(version))


def shown(secret: bytes) -> str:
    """The secret as its user is shown it."""
    return PREFIX + base64.b64encode(secret).decode()


def headers(secret: bytes, id_: str, at: float, body: bytes) -> list[tuple[str, str]]:
    """The three headers of a message sent at `at` (seconds since 1970)."""
    seconds = str(int(at))
    signed = b".".join((id_.encode(), seconds.encode(), body))
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return [("webhook-id", id_), ("webhook-timestamp", seconds), ("webhook-signature", f"v1,{signature}")]
