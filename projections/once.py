"""Counting each event once, where a log can hold it twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from sqlalchemy import Column, Connection, MetaData, Table, delete, select

from projections.columns import BYTES, INTEGER, TEXT
from projections.merging import put
from projections.view import Entry

WINDOW = 16_384
"""Offsets within which a keyed topic's duplicates are dropped: the rule of the folds' runner, too."""
_CHUNK = 500


def digest(entry: Entry) -> bytes:
    """128 bits of BLAKE2b that stand for the event: project, source and id."""
    e = entry.envelope
    return blake2b("\x00".join(e.name).encode(), digest_size=16).digest()


def window_table(name: str, metadata: MetaData) -> Table:
    """The last offset of each event within the window of its partition."""
    return Table(
        name,
        metadata,
        Column("topic", TEXT, primary_key=True),
        Column("partition", INTEGER, primary_key=True),
        Column("digest", BYTES, primary_key=True),
        Column("offset", INTEGER, nullable=False, index=True),
        sqlite_with_rowid=False,
    )


def fresh_in_window(
    connection: Connection, table: Table, batch: Sequence[Entry], window: int = WINDOW
) -> list[Entry]:
    """Entries whose event did not stand within the `window` offsets before, in the same partition.

    A duplicate prolongs the window, as in the folds' runner. A dead letter's replay is addressed
    to a fold and is nobody's event here: it is left out, and not noted.
    """
    places: dict[tuple[str, int], list[Entry]] = {}
    for entry in batch:
        if entry.envelope.replay_of is None:
            places.setdefault((entry.topic, entry.partition), []).append(entry)
    fresh: list[Entry] = []
    for (topic, partition), entries in places.items():
        names = [digest(entry) for entry in entries]
        here = (table.c.topic == topic) & (table.c.partition == partition)
        last: dict[bytes, int] = {}
        for chunk in _chunks(names):
            rows = connection.execute(
                select(table.c.digest, table.c.offset).where(here, table.c.digest.in_(chunk))
            )
            last.update({bytes(name): offset for name, offset in rows})
        for name, entry in zip(names, entries, strict=True):
            if last.get(name, -1) < max(0, entry.offset - window):
                fresh.append(entry)
            last[name] = entry.offset
        put(
            connection,
            table,
            [
                {"topic": topic, "partition": partition, "digest": name, "offset": offset}
                for name, offset in sorted(last.items())
            ],
        )
        gone = entries[-1].offset - window
        connection.execute(delete(table).where(here, table.c.offset < gone))
    return fresh


def counted_table(name: str, metadata: MetaData) -> Table:
    """Every event that was ever counted: about 40 bytes each."""
    return Table(name, metadata, Column("digest", BYTES, primary_key=True), sqlite_with_rowid=False)


def fresh_ever(connection: Connection, table: Table, batch: Sequence[Entry]) -> list[Entry]:
    """Entries whose event was never counted before, wherever it stands; they count from now on.

    Raw topics need it: a producer's second delivery may stand in another partition.
    """
    unseen: dict[bytes, Entry] = {}
    for entry in batch:
        if entry.envelope.replay_of is None:
            unseen.setdefault(digest(entry), entry)
    for chunk in _chunks(list(unseen)):
        for (name,) in connection.execute(select(table.c.digest).where(table.c.digest.in_(chunk))):
            del unseen[bytes(name)]
    if unseen:
        connection.execute(table.insert(), [{"digest": name} for name in sorted(unseen)])
    return list(unseen.values())


def _chunks(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(names), _CHUNK):
        yield names[start : start + _CHUNK]
