"""Writing a backup's file."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO

import msgspec

from schemas.errors import HeadwaterError
from streams.backup.contents import (
    ABOUT,
    DATA,
    MANIFEST,
    SUM,
    About,
    Advance,
    File,
    LogState,
    Manifest,
    counting,
    sum_of,
)
from streams.backup.moment import Held

_CHUNK = 1024 * 1024


class Writer:
    """Writes an archive. What it writes to is closed by its owner."""

    def __init__(self, file: IO[bytes], about: About, *, compressed: bool, advance: Advance) -> None:
        self._about = about
        self._moved = counting(advance, about.bytes)
        self._files: list[File] = []
        self._open = ExitStack()
        # Level 1 takes a third of the default's time, and is some percent larger.
        out = self._open.enter_context(gzip.GzipFile("", "wb", 1, file)) if compressed else file
        self._tar = self._open.enter_context(tarfile.TarFile(fileobj=out, mode="w", copybufsize=_CHUNK))
        self._text(ABOUT, msgspec.json.format(msgspec.json.encode(about), indent=1))

    def add(self, held: Held) -> None:
        """A file of the data folder. Raises HeadwaterError where it has become shorter."""
        reader = _Summing(held, self._moved)
        self._tar.addfile(_member(DATA + held.name, held.size), reader)
        self._files.append(File(held.name, held.size, reader.sha256.hexdigest()))

    def close(self, log: LogState | None, absent: list[str]) -> Manifest:
        """Write what comes last."""
        manifest = Manifest(self._about, log, absent, self._files)
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        self._text(MANIFEST, content)
        self._text(SUM, sum_of(content))
        self._open.close()
        return manifest

    def _text(self, name: str, content: bytes) -> None:
        self._tar.addfile(_member(name, len(content)), io.BytesIO(content))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    return member


class _Summing(io.RawIOBase):
    """The bytes of a held file, summed up as they are read."""

    def __init__(self, held: Held, moved: Callable[[int], None]) -> None:
        self.sha256 = hashlib.sha256()
        self._held = held
        self._moved = moved
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes. Raises HeadwaterError."""
        left = self._held.size - self._at
        wanted = left if count < 0 else min(count, left)
        try:
            piece = os.pread(self._held.descriptor, wanted, self._at)
        except OSError as error:
            raise HeadwaterError(
                f"{self._held.name} cannot be read: {error.strerror}",
                hint="see the system's log: is the disk well?",
            ) from error
        if len(piece) < wanted:
            raise HeadwaterError(
                f"{self._held.name} became shorter while it was copied",
                hint="the broker was killed and started meanwhile: take the backup again",
            )
        self._at += len(piece)
        self.sha256.update(piece)
        self._moved(len(piece))
        return piece
