"""`headwater backup`: the data folder as of one instant, in one file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from schemas.envelope import format_time
from schemas.errors import ConfigurationError, DiskFull
from streams.authority.issued import Issued
from streams.backup import views
from streams.backup.absent import absent
from streams.backup.contents import FORMAT, About, Advance, LogState, Manifest
from streams.backup.holding import held
from streams.backup.moment import Held, Moment
from streams.backup.segments import ends, without_scrap
from streams.backup.writing import Writer
from streams.broker import KAFKA_VERSION
from streams.disk import existing, free_bytes, is_full, places
from streams.settings import Settings

COMPRESSED = (".gz", ".tgz")
_LOG = "kafka/log/"


class Taken(NamedTuple):
    """What a backup did."""

    manifest: Manifest
    file_bytes: int
    seconds: float


def backup(settings: Settings, path: Path, advance: Advance) -> Taken:
    """Write the data folder into a new file, whatever runs meanwhile.

    Raises ConfigurationError where the folder or the place of the file will not do, DiskFull where it does
    not fit there, and as `streams.backup.holding.held`. There is no file then.
    """
    began = time.monotonic()
    data, path = settings.data.resolve(), path.expanduser().absolute()
    _refuse(settings, data, path)
    room = Room(settings, path)
    with _beside(path) as work, Moment() as moment:
        # The views first: the log then has what they have seen. The other way round they would be ahead.
        without = absent(settings) + ([] if settings.database else _copy_views(data, work, moment, room))
        with held(settings, data, moment) as still_ms:
            taken = time.time()
            files = sorted(without_scrap(moment.files))
            about = About(
                FORMAT,
                version("headwater"),
                format_time(taken),
                sum(f.size for f in files),
                len(files),
                settings.namespace,
            )
            compressed = path.suffix in COMPRESSED
            room.check(0 if compressed else about.bytes)
            half = work / "archive"

            def told(done: int, total: int) -> None:
                room.check()
                advance(done, total)

            with _saying_no_space(path), half.open("xb") as file:
                writer = Writer(file, about, compressed=compressed, advance=told)
                for each in files:
                    writer.add(each)
                log = _log_state(settings, files, still_ms) if settings.embedded else None
                manifest = writer.close(log, without)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
        half.chmod(0o600)
        _publish(half, path)
    return Taken(manifest, size, time.monotonic() - began)


def _publish(half: Path, path: Path) -> None:
    """Give the whole file its name; what has got that meanwhile is not replaced."""
    try:
        path.hardlink_to(half)
    except OSError as error:
        if path.exists():
            raise _there_already(path) from error
        half.rename(path)  # a file system without links


def _there_already(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path} is there already", hint="name another file: none is replaced")


def _refuse(settings: Settings, data: Path, path: Path) -> None:
    if not data.is_dir():
        raise ConfigurationError(
            f"there is no data folder {data}", hint="set HEADWATER_DATA to that of an instance"
        )
    if settings.embedded and not (data / _LOG / "meta.properties").exists():
        raise ConfigurationError(
            f"there is no log in {data}",
            hint="set HEADWATER_DATA to an instance's folder, or HEADWATER_KAFKA to where its log is",
        )
    if not path.parent.is_dir():
        raise ConfigurationError(f"there is no folder {path.parent}", hint="make it first")
    if path.exists():
        raise _there_already(path)
    if path.parent.resolve().is_relative_to(data):
        raise ConfigurationError(f"{path} is in the data folder", hint="name a place on another disk")


class Room:
    """What a backup may take on its disk: where the log is on it, too, not what is in reserve for that."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self._folder = path.parent
        self._smaller = "" if path.suffix in COMPRESSED else f", or end the name in {COMPRESSED[0]}"
        device = self._folder.stat().st_dev
        self._same = settings.embedded and any(
            existing(place).stat().st_dev == device for place in places(settings)
        )
        self._reserve = settings.disk_reserve_bytes if self._same else 0

    def check(self, wanted: int = 0) -> None:
        """Raise DiskFull where there is no room for so many bytes more."""
        if free_bytes(self._folder) - self._reserve < wanted:
            self.refuse(wanted)

    def refuse(self, wanted: int) -> NoReturn:
        """Raise DiskFull."""
        takes = f"takes {wanted / 2**20:,.1f} MiB" if wanted else "does not fit"
        free = free_bytes(self._folder)
        kept = f", {self._reserve / 2**20:,.0f} MiB are in reserve for the log" if self._same else ""
        raise DiskFull(
            f"the backup {takes}: {self._folder} has {free / 2**20:,.1f} MiB free{kept}",
            hint=f"name a place with more room{self._smaller}",
        )


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder of our own for what is not whole yet, on the disk of `path`."""
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ConfigurationError(
            f"{path.parent} cannot be written to: {error.strerror}", hint="name another place"
        ) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _copy_views(data: Path, work: Path, moment: Moment, room: Room) -> list[str]:
    """Hold a copy of the views; says why where there cannot be one: a log alone is as good, only slower."""
    if not (data / views.FILE).exists():
        return []
    try:
        views.copy(data / views.FILE, work / views.FILE, room.check)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            room.refuse(0)
        return [f"the views ({data / views.FILE}: {error}): they are made anew from the log"]
    moment.hold(work, lambda name: name == views.FILE)
    return []


@contextmanager
def _saying_no_space(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = DiskFull if is_full(error) else ConfigurationError
        raise kind(f"{path} could not be written: {error.strerror}", hint="name another place") from error


def _log_state(settings: Settings, files: Sequence[Held], still_ms: float | None) -> LogState:
    log = [f._replace(name=f.name.removeprefix(_LOG)) for f in files if f.name.startswith(_LOG)]
    ids: dict[str, int] = {}
    for file in files:
        if file.name == f"kafka/{settings.named('schema-ids')}.json":
            content = os.pread(file.descriptor, file.size, 0)
            ids = {entry.name: entry.id for entry in msgspec.json.decode(content, type=list[Issued])}
    return LogState(KAFKA_VERSION, ends(log), ids, still_ms)
