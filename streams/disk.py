"""The guard of the embedded log's disk: the log is kept for ever, so it says no before the disk is full.

A broker that runs out of space fails at a moment of its own choosing and takes the views down with it.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import structlog

from schemas.errors import DiskFull
from streams.settings import Settings

log = structlog.get_logger()
_EVERY_S = 1.0
_WARN_FACTOR = 4


class DiskGuard:
    """Refuses new events while less than `settings.disk_reserve_bytes` is free; warns at four times that."""

    def __init__(self, settings: Settings) -> None:
        self._folder: Path | None = settings.data if settings.embedded else None
        self._reserve = settings.disk_reserve_bytes
        self._free = 0
        self._looked = float("-inf")
        self._warned = False

    def check(self) -> None:
        """Raise DiskFull where the reserve is touched. Looks once a second."""
        if self._folder is None:
            return
        now = time.monotonic()
        if now - self._looked >= _EVERY_S:
            self._looked = now
            self._free = _free(self._folder)
            self._warn(self._free < _WARN_FACTOR * self._reserve)
        if self._free < self._reserve:
            raise DiskFull(
                f"{self._free / 2**20:,.0f} MiB are free for the log in {self._folder}, "
                f"{self._reserve / 2**20:,.0f} MiB are kept in reserve",
                hint="make room; events are taken again within a second. HEADWATER_DISK_RESERVE_BYTES sets the reserve",
            )

    def _warn(self, low: bool) -> None:
        if low and not self._warned:
            log.warning("disk.low", free_mib=self._free // 2**20, folder=str(self._folder))
        self._warned = low


def _free(folder: Path) -> int:
    """Free bytes of the file system that the folder is, or will be, on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
