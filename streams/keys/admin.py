"""The administrator's key: all rights in all projects; made on first use, or configured."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

import structlog

from schemas.errors import ConfigurationError
from streams.keys.kept import write
from streams.settings import Settings

log = structlog.get_logger()


def admin_path(settings: Settings) -> Path:
    """Where the key is where none is configured."""
    return settings.data / "api-key"


def admin_key(settings: Settings) -> str:
    """The key with all rights: HEADWATER_API_KEY, else that of `$DATA/api-key`, made on first use.

    Raises ConfigurationError where the file cannot be used.
    """
    if settings.api_key is not None:
        return _refuse_short(settings.api_key.get_secret_value(), "HEADWATER_API_KEY")
    path = admin_path(settings)
    try:
        if not path.exists():
            _make(path, secrets.token_urlsafe(32))
        if path.stat().st_mode & 0o077:
            log.warning("keys.readable_by_others", path=str(path), done="chmod 600")
            path.chmod(0o600)
        return _refuse_short(path.read_text().strip(), str(path))
    except OSError as error:
        raise ConfigurationError(
            f"the API key {path} cannot be used: {error.strerror or error}",
            hint="make the data folder writable for this user, or set HEADWATER_API_KEY",
        ) from error


def _refuse_short(key: str, where: str) -> str:
    if len(key) < 16:
        raise ConfigurationError(
            f"the API key in {where} has {len(key)} characters", hint="16 at least; 43 random ones are made"
        )
    return key


def _make(path: Path, key: str) -> None:
    """Write a new key; where another process was first, its key stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    write(half, f"{key}\n".encode())
    with suppress(FileExistsError):
        os.link(half, path)
    half.unlink()
