"""Reading a backup's file: nothing of it is trusted before all of it was compared with its manifest."""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from schemas.errors import HeadwaterError
from streams.backup.contents import (
    ABOUT,
    DATA,
    FORMAT,
    MANIFEST,
    SUM,
    About,
    Advance,
    File,
    Manifest,
    counting,
    sum_of,
)

_CHUNK = 1024 * 1024
_MOST_TEXT = 512 * 1024 * 1024
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, UnicodeError, OverflowError)
_UNTOUCHED = "nothing was changed"
Known = TypeVar("Known", bound=msgspec.Struct)


class ArchiveRefused(HeadwaterError):
    """A file is no backup, is damaged, or is one that this version cannot read."""


class _Made(msgspec.Struct):
    """What can be read of an archive of any format."""

    format: int
    headwater: str


class Archive:
    """An archive that is read once, from front to end. Raises ArchiveRefused."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path = path
        self._tar = tar
        first = tar.next()
        if first is None or first.name != ABOUT:
            raise ArchiveRefused(f"{path} is no backup of Headwater", hint=_UNTOUCHED)
        content = self._text(first)
        made = self._decoded(content, _Made)
        if made.format > FORMAT:
            raise ArchiveRefused(
                f"{path} was made by Headwater {made.headwater} in format {made.format}, "
                f"and this version reads up to format {FORMAT}",
                hint=f"restore it with that version or a newer one; {_UNTOUCHED}",
            )
        self.about = self._decoded(content, About)

    def unpack(self, folder: Path, advance: Advance) -> Manifest:
        """Write its files below an empty folder; all of it was compared with the manifest when this returns."""
        moved, room = counting(advance, self.about.bytes), self.about.bytes
        found: list[File] = []
        while (member := self._tar.next()) is not None and member.name != MANIFEST:
            room -= member.size
            found.append(self._file(member, folder, moved, room=room))
        if member is None:
            raise self._damaged("it ends before its manifest")
        content = self._text(member)
        last = self._tar.next()
        if last is None or last.name != SUM or self._text(last) != sum_of(content):
            raise self._damaged("its manifest was changed or cut off")
        if self._tar.next() is not None:
            raise self._damaged("something follows its manifest")
        manifest = self._decoded(content, Manifest)
        if manifest.about != self.about:
            raise self._damaged("its head and its manifest differ")
        for there, said in zip(found, manifest.files, strict=False):
            if there != said:
                raise self._damaged(f"{there.name} is not what its manifest says of {said.name}")
        if len(found) != len(manifest.files):
            raise self._damaged(f"it has {len(found)} files, its manifest says {len(manifest.files)}")
        return manifest

    def _file(
        self, member: tarfile.TarInfo, folder: Path, moved: Callable[[int], None], *, room: int
    ) -> File:
        """Write one, where there is `room` for it in what the head says of all."""
        name = member.name.removeprefix(DATA)
        parts = PurePosixPath(name).parts
        if (
            name == member.name
            or "/".join(parts) != name
            or not parts
            or {"..", "/"} & set(parts)
            or "\0" in name
        ):
            raise self._damaged(f"{member.name!r} is no place in a data folder")
        if not member.isreg() or member.issparse():
            raise self._damaged(f"{member.name!r} is no plain file")
        source = self._tar.extractfile(member)
        assert source is not None, "it is a plain file"
        path = folder / name
        sha256 = hashlib.sha256()
        try:
            _make(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise self._damaged(f"{member.name!r} is in it twice") from error
        with os.fdopen(descriptor, "wb") as target:
            if room < 0:
                raise self._damaged(f"it has more than the {self.about.bytes:,} bytes that its head says")
            while piece := source.read(_CHUNK):
                sha256.update(piece)
                target.write(piece)
                moved(len(piece))
        return File(name, member.size, sha256.hexdigest())

    def _text(self, member: tarfile.TarInfo) -> bytes:
        if not member.isreg() or member.issparse() or member.size > _MOST_TEXT:
            raise self._damaged(f"{member.name!r} is no plain file")
        source = self._tar.extractfile(member)
        assert source is not None, "it is a plain file"
        return source.read()

    def _decoded(self, content: bytes, kind: type[Known]) -> Known:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> ArchiveRefused:
        return damaged(self._path, what)


def _make(folder: Path) -> None:
    """Make a folder and those above it, for their owner alone: mkdir's `parents` have another mode."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700)


def damaged(path: Path, what: str) -> ArchiveRefused:
    """What is said of an archive that is not as it was written."""
    return ArchiveRefused(f"{path} is damaged: {what}", hint=f"take another copy of it; {_UNTOUCHED}")


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """An archive to read. Raises ArchiveRefused, also where it shows while it is being read."""
    try:
        with path.open("rb") as file:
            try:
                tar = tarfile.TarFile.open(fileobj=file, mode="r|*", bufsize=_CHUNK)
            except tarfile.TarError as error:
                raise ArchiveRefused(f"{path} is no backup of Headwater: {error}", hint=_UNTOUCHED) from error
            with tar:
                yield Archive(path, tar)
    except _DAMAGE as error:
        raise damaged(path, str(error) or type(error).__name__) from error
