"""The instance's own secret: it signs snapshots, and other secrets are derived from it."""

from __future__ import annotations

import os
import secrets
from hashlib import blake2b

from streams.settings import Settings


def secret_of(settings: Settings) -> bytes:
    """HEADWATER_SNAPSHOT_KEY, or made in the data folder on first use."""
    if settings.snapshot_key is not None:
        return settings.snapshot_key.get_secret_value().encode()
    path = settings.data / "snapshot-key"
    settings.data.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        key = secrets.token_hex(32).encode()
        file.write(key)
    return key


def derived_secret(secret: bytes, *purpose: str) -> bytes:
    """32 bytes for one purpose, by keyed BLAKE2b: who knows them learns nothing of `secret` or of others."""
    return blake2b("\x00".join(purpose).encode(), key=blake2b(secret).digest(), digest_size=32).digest()
