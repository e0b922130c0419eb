"""When each key was last used, and at which door: noted in memory, written once a minute and at stop.

A crash loses what came since. Several gateways of one data folder write into one file.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import structlog

from schemas.errors import HeadwaterError
from streams.keys.kept import locked, read, write
from streams.settings import Settings

FLUSH_S = 60.0
log = structlog.get_logger()


class Use(msgspec.Struct, frozen=True):
    """A use of a key: seconds since 1970, and the door's method and route."""

    at: float
    door: str


def last_uses(settings: Settings) -> dict[str, Use]:
    """The last use by key id, as far as it was written; a damaged file is as good as none."""
    try:
        return msgspec.json.decode(_path(settings).read_bytes(), type=dict[str, Use])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


class Uses:
    """Notes uses of keys. `note` costs a dictionary's entry; `flush` blocks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._noted: dict[str, Use] = {}
        self._written: dict[str, Use] = {}

    def note(self, key_id: str, door: str) -> None:
        """A key was used just now."""
        self._noted[key_id] = Use(time.time(), door)

    def flush(self) -> None:
        """Write what was noted since the last time, beside what other gateways wrote; for known keys alone."""
        noted = self._noted.copy()  # whole, whatever the event loop notes meanwhile
        if noted == self._written:
            return
        path = _path(self._settings)
        try:
            with locked(path):
                merged = last_uses(self._settings)
                for id_, use in noted.items():
                    if id_ not in merged or merged[id_].at < use.at:
                        merged[id_] = use
                known = {key.id for key in read(self._settings).keys}
                write(path, msgspec.json.encode({k: use for k, use in merged.items() if k in known}))
            self._written = noted
        except (OSError, HeadwaterError) as error:
            log.warning("keys.uses_not_written", why=str(error))

    async def keep(self) -> None:
        """Flush every minute until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.to_thread(self.flush)


def _path(settings: Settings) -> Path:
    return settings.data / "key-uses.json"
