"""`headwater restore`: a data folder out of a backup; the old one stays until the new one is whole."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from schemas.errors import ConfigurationError, DiskFull
from streams.backup.contents import About, Advance, Manifest
from streams.backup.holding import REPLACED, RESTORING
from streams.backup.moment import lock_holder
from streams.backup.reading import ArchiveRefused, opened
from streams.broker import KAFKA_VERSION, Broker
from streams.disk import free_bytes, is_full
from streams.settings import Settings
from streams.supervision.instance import instance_lock, take_instance
from streams.supervision.status import read_all

_NOT_OURS = ("lost+found", REPLACED, RESTORING)
Move = tuple[Path, Path]


class Restored(NamedTuple):
    """What a restore did. `replaced`: where that is which was in the folder before, if anything was."""

    manifest: Manifest
    folder: Path
    replaced: Path | None
    seconds: float


def restore(settings: Settings, path: Path, advance: Advance, *, force: bool = False) -> Restored:
    """Make the data folder of the settings from a backup.

    It has to be empty or absent; with `force` what is in it is put aside. Raises ArchiveRefused where the
    file is no whole backup, ConfigurationError where the folder will not do, DiskFull: nothing has changed then.
    """
    began = time.monotonic()
    folder, path = settings.data.resolve(), path.expanduser().absolute()
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}", hint="name what `headwater backup` has written")
    present = _present(folder)
    if present and not force:
        names = ", ".join(p.name for p in present[:6]) + (", …" if len(present) > 6 else "")
        raise ConfigurationError(
            f"{folder} is not empty: it has {names}", hint="--force puts that aside, into a folder beside it"
        )
    # Beside the folder, where it then only has to be renamed; inside it where it is a disk of its own.
    place = folder if folder.is_mount() else folder.parent
    stem = "" if place == folder else f".{folder.name.removeprefix('.')}"
    aside = place / f"{stem}{REPLACED}{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    with (
        _unused(settings.model_copy(update={"data": folder}), present),
        opened(path) as archive,
        _work(place, f"{stem}{RESTORING}") as work,
    ):
        _refuse_what_does_not_fit(place, archive.about)
        try:
            manifest = archive.unpack(work / "new", advance)
            _refuse_a_newer_log(path, manifest)
            os.sync()  # a power cut must not find it in place and empty
            _put_in_place(folder, present, work / "new", aside)
        except OSError as error:
            raise (DiskFull if is_full(error) else ConfigurationError)(
                f"{folder} could not be restored: {error.strerror}", hint="nothing was changed"
            ) from error
    return Restored(manifest, folder, aside if present else None, time.monotonic() - began)


def _present(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(_NOT_OURS))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be restored to: {error.strerror}", hint="name a folder with --data"
        ) from error


@contextmanager
def _unused(settings: Settings, present: Sequence[Path]) -> Iterator[None]:
    """Refuse a folder in which something runs, and let nothing start there meanwhile."""
    if not present:
        yield  # and a lock's file would be something in it
        return
    instance, broker = instance_lock(settings), Broker(settings)
    take_instance(instance)
    try:
        for name, said in read_all(settings).items():
            if said["alive"]:  # beside a cluster of one's own each may run alone
                raise ConfigurationError(
                    f"{name} runs in {settings.data} (pid {said['pid']})",
                    hint="stop it, or name another folder with --data",
                )
        if broker.folder.is_dir() and not (broker.lock.take() and lock_holder(broker.log_lock) is None):
            raise ConfigurationError(
                f"a broker runs in {broker.folder} (pid {broker.lock.holder() or 'unknown'})",
                hint="stop it, or name another folder with --data",
            )
        yield
    finally:
        broker.lock.release()
        instance.release()


@contextmanager
def _work(place: Path, prefix: str) -> Iterator[Path]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    except OSError as error:
        raise ConfigurationError(
            f"{place} cannot be written to: {error.strerror}", hint="name another folder with --data"
        ) from error
    try:
        (work / "new").mkdir(mode=0o700)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refuse_what_does_not_fit(place: Path, about: About) -> None:
    free = free_bytes(place)
    if free < about.bytes:
        raise DiskFull(
            f"the backup holds {about.bytes / 2**20:,.1f} MiB, and {place} has {free / 2**20:,.1f} MiB free",
            hint="make room, or name a folder elsewhere with --data; nothing was changed",
        )


def _refuse_a_newer_log(path: Path, manifest: Manifest) -> None:
    """Kafka reads what older versions of it have written, and not what newer ones have."""
    if manifest.log is not None and _parts(manifest.log.kafka) > _parts(KAFKA_VERSION):
        raise ArchiveRefused(
            f"the log in {path} was written by Kafka {manifest.log.kafka}, and this version runs {KAFKA_VERSION}",
            hint=f"restore it with Headwater {manifest.about.headwater} or a newer one; nothing was changed",
        )


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _put_in_place(folder: Path, present: Sequence[Path], new: Path, aside: Path) -> None:
    """Rename, all of it or nothing."""
    if folder.is_mount():
        moves = [(p, aside / p.name) for p in present] + [(p, folder / p.name) for p in new.iterdir()]
        aside.mkdir(mode=0o700, exist_ok=True)
    else:
        moves = [(folder, aside)] if present else []
        moves.append((new, folder))
    done: list[Move] = []
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except OSError:
        for source, target in reversed(done):
            target.rename(source)
        with suppress(FileNotFoundError):
            aside.rmdir()
        raise
