"""The data folder's disk, and the log's where it has one of its own: whether it takes writes, and how much room it has.

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


def is_full(error: OSError) -> bool:
    """Whether there was no room for what was written, on the disk or in the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system that the folder is, or will be, on."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def places(settings: Settings) -> tuple[Path, ...]:
    """Our folders that may be disks of their own: the data folder, and in it the embedded log's."""
    return (settings.data, settings.data / "kafka" / "log") if settings.embedded else (settings.data,)


def scarcest(settings: Settings) -> tuple[Path, int]:
    """Which of these has the least room, and how many bytes are free there."""
    free = {place: free_bytes(place) for place in places(settings)}
    place = min(free, key=free.__getitem__)
    return place, free[place]


def any_read_only(settings: Settings) -> DiskReadOnly | None:
    """What is said where one of these takes no writes."""
    return next((found for place in places(settings) if (found := read_only(place)) is not None), None)


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
    found, (place, free) = any_read_only(settings), scarcest(settings)
    needed = min(START_BYTES, settings.disk_reserve_bytes)
    if found is not None or free >= needed:
        return found
    return DiskFull(
        f"{free / 2**20:,.0f} MiB are free in {place}, {needed / 2**20:,.0f} MiB are needed",
        hint="make room on this disk, or set HEADWATER_DATA to another",
    )


class DiskGuard:
    """Refuses new events while less than `settings.disk_reserve_bytes` is free; warns at four times that."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reserve = settings.disk_reserve_bytes
        self._place, self._free = settings.data, 0
        self._read_only: DiskReadOnly | None = None
        self._looked = float("-inf")
        self._warned = False

    def check(self) -> None:
        """Raise DiskFull where the reserve is touched, DiskReadOnly. Looks once a second."""
        if not self._settings.embedded:
            return
        now = time.monotonic()
        if now - self._looked >= _EVERY_S:
            self._looked = now
            self._place, self._free = scarcest(self._settings)
            self._read_only = any_read_only(self._settings)
            self._warn(self._free < _WARN_FACTOR * self._reserve)
        if self._read_only is not None:
            raise DiskReadOnly(self._read_only.message, hint=self._read_only.hint)
        if self._free < self._reserve:
            raise DiskFull(
                f"{self._free / 2**20:,.0f} MiB are free for the log in {self._place}, "
                f"{self._reserve / 2**20:,.0f} MiB are kept in reserve",
                hint="make room; events are taken again within a second. HEADWATER_DISK_RESERVE_BYTES sets the reserve",
            )

    def _warn(self, low: bool) -> None:
        if low and not self._warned:
            log.warning("disk.low", free_mib=self._free // 2**20, folder=str(self._place))
        self._warned = low
