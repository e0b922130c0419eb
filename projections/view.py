"""The one shape of every view: batches of decoded events in, rows in SQL out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec
from sqlalchemy import Connection, MetaData, Table

from schemas.envelope import Envelope
from schemas.events import Event
from schemas.topics import Topic

Tables = Mapping[str, Table]
"""A view's tables of one generation, by the names that the view knows them by."""
Place = tuple[str, int]
"""(topic without namespace, partition)."""
Offsets = Mapping[Place, int]
"""Next offset to be read, by place: everything below it is reflected."""


class Entry(msgspec.Struct, frozen=True):
    """One decoded record. `key` is without the project that the runner and the SDK put before it.

    `time` is event time, seconds since 1970; a live event's is at most 5 minutes ahead of the broker's.
    `producer_key` is the id of the API key that it came in with.
    """

    topic: str
    partition: int
    offset: int
    key: str
    time: float
    event: Event
    envelope: Envelope
    producer_key: str | None = None


class View:
    """A read model: a pure function from the log to rows.

    `apply` gets the records of one partition in order, and those of several partitions in any
    interleaving; it has to come to the same rows for each (see `projections.merging`). The store
    commits its rows and the offsets in one SQL transaction, so an entry is applied once. Raw
    topics, and keyed ones within bounds, can hold an event twice: rows by event id, or counts
    behind `projections.once`. Bump `version` whenever the same log would give other rows or
    other tables: the view is then made anew from the start of the log.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    version: ClassVar[int] = 1
    topics: tuple[Topic, ...]

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """Declare the view's tables on `metadata`, each name ending in `suffix`; leave indexes unnamed."""
        raise NotImplementedError(f"{self.name}.tables")

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Bring the rows up to date; SQL on `connection` only, no clock, no other I/O.

        What it raises, other than the database's own trouble, is laid to one entry, found by
        halving; that entry is then skipped, reported and counted.
        """
        raise NotImplementedError(f"{self.name}.apply")
