"""The data folder's disk: whether it takes writes, and how much room it has.

The embedded log is kept for ever, so new events are refused before its disk is full. A broker that meets
a full disk nevertheless ends at once (ADR 14), and none is started where it could not live.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import structlog

from schemas.errors import DiskFull, DiskReadOnly, HeadwaterError
from streams.settings import Settings

log = structlog.get_logger()
START_BYTES = 64 * 2**20
"""With less room nothing is started, unless the reserve is set lower still."""
_EVERY_S = 1.0
_WARN_FACTOR = 4


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system that the folder is, or will be, on."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def read_only(folder: Path) -> DiskReadOnly | None:
    """What is said where the folder's file system takes no writes.

    A write is tried, of the times that the folder has: file systems that the kernel made read-only after
    an error do not say so when they are asked. Who may not do that learns nothing.
    """
    place = existing(folder)
    was = place.stat()
    try:
        os.utime(place, ns=(was.st_atime_ns, was.st_mtime_ns))
    except OSError as error:
        if error.errno == errno.EROFS:
            return DiskReadOnly(
                f"the disk of {folder} is read-only",
                hint="see the system's log for why; once it can be written to, all goes on",
            )
    return None


def obstacle(settings: Settings) -> HeadwaterError | None:
    """Why nothing could live in the data folder now: it is read-only, or as good as full."""
    found = read_only(settings.data)
    free, needed = free_bytes(settings.data), min(START_BYTES, settings.disk_reserve_bytes)
    if found is not None or free >= needed:
        return found
    return DiskFull(
        f"{free / 2**20:,.0f} MiB are free in {settings.data}, {needed / 2**20:,.0f} MiB are needed",
        hint="make room on this disk, or set HEADWATER_DATA to another",
    )


class DiskGuard:
    """Refuses new events while less than `settings.disk_reserve_bytes` is free; warns at four times that."""

    def __init__(self, settings: Settings) -> None:
        self._folder: Path | None = settings.data if settings.embedded else None
        self._reserve = settings.disk_reserve_bytes
        self._free = 0
        self._read_only: DiskReadOnly | None = None
        self._looked = float("-inf")
        self._warned = False

    def check(self) -> None:
        """Raise DiskFull where the reserve is touched, DiskReadOnly. Looks once a second."""
        if self._folder is None:
            return
        now = time.monotonic()
        if now - self._looked >= _EVERY_S:
            self._looked = now
            self._free, self._read_only = free_bytes(self._folder), read_only(self._folder)
            self._warn(self._free < _WARN_FACTOR * self._reserve)
        if self._read_only is not None:
            raise DiskReadOnly(self._read_only.message, hint=self._read_only.hint)
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
