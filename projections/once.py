"""Counting each event once, where a log can hold it twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

from sqlalchemy import Column, Connection, Index, MetaData, Table, delete, or_, select
from sqlalchemy.exc import IntegrityError

from projections.columns import BYTES, INTEGER, TEXT
from projections.merging import put, put_new
from projections.view import Entry
from projections.writing import Row

WINDOW = 16_384
"""Offsets within which a keyed topic's duplicates are dropped: the rule of the folds' runner, too."""
_CHUNK = 500


def digest(entry: Entry) -> bytes:
    """128 bits of BLAKE2b that stand for the event: project, source and id."""
    e = entry.envelope
    return blake2b("\x00".join(e.name).encode(), digest_size=16).digest()


def window_table(name: str, metadata: MetaData) -> Table:
    """The last offset of each event within the window of its partition."""
    table = Table(
        name,
        metadata,
        Column("topic", TEXT, primary_key=True),
        Column("partition", INTEGER, primary_key=True, autoincrement=False),
        Column("digest", BYTES, primary_key=True),
        Column("offset", INTEGER, nullable=False),
        sqlite_with_rowid=False,
    )
    Index(None, table.c.topic, table.c.partition, table.c.offset)
    return table


def fresh_in_window(
    connection: Connection,
    table: Table,
    batch: Sequence[Entry],
    window: int = WINDOW,
    *,
    uncounted: Table | None = None,
) -> list[Entry]:
    """Entries whose event did not stand within the `window` offsets before, in the same partition.

    A duplicate prolongs the window, as in the folds' runner; `uncounted` notes it. A dead letter's replay
    is addressed to a fold and is nobody's event here: it is left out, and not noted.
    """
    named = [(digest(entry), entry) for entry in batch if entry.envelope.replay_of is None]
    last = {(entry.topic, entry.partition, name): entry.offset for name, entry in named}
    before: dict[tuple[str, int, bytes], int] = {}
    if not _is_new(connection, table, last):
        before = _known(connection, table, last)
        put(connection, table, _rows(last))
    fresh: list[Entry] = []
    again: list[Entry] = []
    for name, entry in named:
        key = (entry.topic, entry.partition, name)
        if before.get(key, -1) < max(0, entry.offset - window):
            fresh.append(entry)
        else:
            again.append(entry)
        before[key] = entry.offset
    leave_out(connection, uncounted, again)
    _forget(connection, table, (entry for _, entry in named), window)
    return fresh


def _is_new(connection: Connection, table: Table, last: Mapping[tuple[str, int, bytes], int]) -> bool:
    """Note the events, unless one is there already: mostly none is, and then nothing has to be looked up."""
    try:
        with connection.begin_nested():
            put_new(connection, table, _rows(last))
    except IntegrityError:
        return False
    return True


def _rows(last: Mapping[tuple[str, int, bytes], int]) -> list[Row]:
    return [
        {"topic": topic, "partition": partition, "digest": name, "offset": last[topic, partition, name]}
        for topic, partition, name in sorted(last)
    ]


def _known(
    connection: Connection, table: Table, wanted: Iterable[tuple[str, int, bytes]]
) -> dict[tuple[str, int, bytes], int]:
    places: dict[tuple[str, int], list[bytes]] = {}
    for topic, partition, name in wanted:
        places.setdefault((topic, partition), []).append(name)
    c = table.c
    known = {}
    for (topic, partition), names in places.items():
        here = (c.topic == topic) & (c.partition == partition)
        for chunk in _chunks(names):
            rows = connection.execute(select(c.digest, c.offset).where(here, c.digest.in_(chunk)))
            known.update({(topic, partition, bytes(name)): offset for name, offset in rows})
    return known


def _forget(connection: Connection, table: Table, entries: Iterable[Entry], window: int) -> None:
    """Drop what lies outside of the window."""
    ends = {(entry.topic, entry.partition): entry.offset for entry in entries}
    c = table.c
    gone = [
        (c.topic == topic) & (c.partition == partition) & (c.offset < end - window)
        for (topic, partition), end in ends.items()
        if end > window
    ]
    if gone:
        connection.execute(delete(table).where(or_(*gone)))


def counted_table(name: str, metadata: MetaData) -> Table:
    """Every event that was ever counted: about 40 bytes each."""
    return Table(name, metadata, Column("digest", BYTES, primary_key=True), sqlite_with_rowid=False)


def fresh_ever(
    connection: Connection, table: Table, batch: Sequence[Entry], *, uncounted: Table | None = None
) -> list[Entry]:
    """Entries whose event was never counted before, wherever it stands; they count from now on.

    Raw topics need it: a producer's second delivery may stand in another partition. `uncounted` notes it.
    """
    unseen: dict[bytes, Entry] = {}
    ours = [entry for entry in batch if entry.envelope.replay_of is None]
    again = [entry for entry in ours if unseen.setdefault(digest(entry), entry) is not entry]
    try:
        with connection.begin_nested():
            put_new(connection, table, [{"digest": name} for name in sorted(unseen)])
    except IntegrityError:
        for chunk in _chunks(list(unseen)):
            for (name,) in connection.execute(select(table.c.digest).where(table.c.digest.in_(chunk))):
                again.append(unseen.pop(bytes(name)))
        put_new(connection, table, [{"digest": name} for name in sorted(unseen)])
    leave_out(connection, uncounted, again)
    return list(unseen.values())


def uncounted_table(name: str, metadata: MetaData) -> Table:
    """Places of entries that did not count: what reads the log again has to leave out the same."""
    return Table(
        name,
        metadata,
        Column("topic", TEXT, primary_key=True),
        Column("partition", INTEGER, primary_key=True, autoincrement=False),
        Column("offset", INTEGER, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )


class InLog(Protocol):
    """What has a place in the log."""

    @property
    def topic(self) -> str: ...  # noqa: D102 - the class says it
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102


def leave_out(connection: Connection, uncounted: Table | None, entries: Iterable[InLog]) -> None:
    """Note that these did not count, where the view wants it noted."""
    if uncounted is not None:
        rows = [{"topic": x.topic, "partition": x.partition, "offset": x.offset} for x in entries]
        put(connection, uncounted, rows)


def _chunks(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(names), _CHUNK):
        yield names[start : start + _CHUNK]
