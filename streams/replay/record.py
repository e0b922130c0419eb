"""What every format gives: events with their time, ids and place in the file, or bad records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from schemas.errors import HeadwaterError
from schemas.events import Event

DEFAULT_SEED = 1


class Recorded(NamedTuple):
    """One event of a recorded data set.

    `time` is event time, seconds since 1970-01-01 UTC. `id` is made of file name and position alone,
    so that the same data replayed twice gives duplicates, which are dropped. `file` and `line` (from 1)
    say where it was read. The rest is None unless the record itself says it; `key` None is the
    event's own.
    """

    event: Event
    time: float
    id: str
    file: Path
    line: int
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    subject: str | None = None
    source: str | None = None
    key: str | None = None


class BadRecord(NamedTuple):
    """A record that is no event: where it stands and what is wrong with it. `time` orders it."""

    file: Path
    line: int
    reason: str
    time: float


Item = Recorded | BadRecord


@dataclass(frozen=True)
class Options:
    """How to read: the seed of made-up times and ids, and how many agents to make up where none are named."""

    seed: int = DEFAULT_SEED
    agents: int = 8


class MalformedRecord(HeadwaterError):
    """A record of a data set is no event; nothing after it was sent."""

    def __init__(self, bad: BadRecord) -> None:
        super().__init__(
            f"{bad.file}, line {bad.line}: {bad.reason}",
            hint="mend the record and replay again, or leave such records out with --skip-bad",
        )
        self.file = bad.file
        self.line = bad.line
        self.reason = bad.reason


class NothingToReplay(HeadwaterError):
    """The path is not there, cannot be read, or holds no file of the format."""


def find_files(path: Path, patterns: Sequence[str]) -> list[Path]:
    """The files to read: `path` itself where it is a file, else those below it that match, by name.

    Raises NothingToReplay.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise NothingToReplay(f"{path} is not there", hint="give the data set's folder or one of its files")
    files = sorted({f for pattern in patterns for f in path.rglob(pattern) if f.is_file()})
    if not files:
        raise NothingToReplay(
            f"{path} holds no {' or '.join(patterns)}", hint="give the data set's folder or one of its files"
        )
    return files
