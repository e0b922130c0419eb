"""What stands in a backup: a tar that says first what it is, then has the folder's files, last their sums.

Any tar reads it, and `sha256sum -c` the sum of the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

FORMAT = 1
ABOUT = "headwater-backup.json"
MANIFEST = "manifest.json"
SUM = "manifest.json.sha256"
DATA = "data/"
_TELL = 4 * 1024 * 1024

Advance = Callable[[int, int], None]
"""(bytes of the data folder done, bytes in all) from time to time."""


class About(msgspec.Struct, frozen=True):
    """What an archive is. `taken` is RFC 3339; `bytes` and `files` are those of the data folder.

    `namespace` is what the names of its topics begin with; None: it was not written down.
    """

    format: int
    headwater: str
    taken: str
    bytes: int
    files: int
    namespace: str | None = None


class File(msgspec.Struct, frozen=True):
    """A file of the data folder, and where it is there."""

    name: str
    size: int
    sha256: str


class LogState(msgspec.Struct, frozen=True):
    """The embedded broker's log.

    `ends`: by topic, the offset that each partition's next record would have had. `schema_ids`: those that
    the log remembers, by "subject version n". `still_ms`: how long the broker stood still; None: it did
    not run.
    """

    kafka: str
    ends: dict[str, list[int]]
    schema_ids: dict[str, int]
    still_ms: float | None


class Manifest(msgspec.Struct, frozen=True):
    """What an archive has, and in sentences what it has not. `log` is None where a cluster has the log."""

    about: About
    log: LogState | None
    absent: list[str]
    files: list[File]


def sum_of(manifest: bytes) -> bytes:
    """What stands in SUM."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def counting(advance: Advance, total: int) -> Callable[[int], None]:
    """Adds up what it is told piece by piece, and tells the sum now and then."""
    done = told = 0

    def moved(count: int) -> None:
        nonlocal done, told
        done += count
        if done - told >= _TELL or done == total:
            told = done
            advance(done, total)

    return moved
