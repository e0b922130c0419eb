"""What each place of the log contributed to a view's rows, bucket by bucket: so a view can be asked how it was.

A bucket is a run of BUCKET offsets of one place. For each that touched a key the history keeps all that
the place had contributed to the key by the bucket's end. The columns merge commutatively, so a row at
any cut of the log is what its places' last buckets before the cut merge to, and what the records of the
cut buckets add: at most BUCKET a place, however long the log is. Within a place offsets come in
order, so a history does not depend on how places interleave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import orjson
from sqlalchemy import (
    Column,
    Connection,
    Index,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    true,
)
from sqlalchemy.dialects import postgresql

from projections.columns import BYTES, INTEGER, TEXT
from projections.view import Entry
from projections.writing import Row, replacing

BUCKET = 1_024
"""Offsets of a place. Larger: fewer rows to keep, more records to read for an answer."""
Slot = tuple[str, int, int]
"""(topic, partition, bucket)."""
Key = tuple[Any, ...]
Merge = Callable[[Sequence[Row]], Row]
_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(dict[str | int, list[Any]]).decode


def whole_buckets(offset: int) -> int:
    """How many buckets of a place end at an offset, or before."""
    return offset // BUCKET


def first_of(bucket: int) -> int:
    """A bucket's first offset."""
    return bucket * BUCKET


def slot_of(entry: Entry) -> Slot:
    """Where an entry's contribution is kept."""
    return entry.topic, entry.partition, entry.offset // BUCKET


def history_of(table: Table, suffix: str, *, packed: bool = False, order: str | None = None) -> Table:
    """Declare the history of a table of merged columns; its Mergers write it from then on.

    With `packed` keys that differ in their last column alone share a row: for what is small and many. A
    list by the column `order` finds what it may have held at a cut by an index on it.
    """
    keys = list(table.primary_key)[:-1] if packed else list(table.primary_key)
    history = Table(
        f"{table.name.removesuffix(suffix)}_history{suffix}",
        table.metadata,
        *(Column(c.name, c.type, primary_key=True, autoincrement=False) for c in keys),
        Column("at_topic", TEXT, primary_key=True),
        Column("at_partition", INTEGER, primary_key=True, autoincrement=False),
        Column("at_bucket", INTEGER, primary_key=True, autoincrement=False),
        *([Column(order, table.c[order].type)] if order else []),
        Column("data", BYTES, nullable=False),
        sqlite_with_rowid=False,
    )
    if order:
        Index(None, history.c[keys[0].name], history.c[order], *(history.c[c.name] for c in keys[1:]))
    table.info["history"] = History(table, history, [str(c.name) for c in keys], order)
    return history


class History:
    """How a table's rows are kept in its history: MessagePack, values in the order of the columns."""

    def __init__(self, table: Table, history: Table, keys: Sequence[str], order: str | None) -> None:
        self.table = history
        self.keys = tuple(keys)
        self.order = order or ""
        self._names = [str(c.name) for c in table.columns if not c.primary_key]

    def remember(self, connection: Connection, slots: Mapping[Slot, Mapping[Key, Row]], merge: Merge) -> None:
        """Merge what buckets contributed, by key, into what their places had contributed before."""
        changes = {slot: self.grouped(rows) for slot, rows in sorted(slots.items())}
        known = self.latest(
            connection,
            {
                (*key, topic, partition): bucket + 1
                for (topic, partition, bucket), groups in changes.items()
                for key in groups
            },
        )
        rows = []
        for (topic, partition, bucket), groups in changes.items():
            for key, group in groups.items():
                before = known.get((*key, topic, partition))
                kept = {} if before is None else _unpack(before)
                row: Row = dict(zip(self.keys, key, strict=True))
                row |= {"at_topic": topic, "at_partition": partition, "at_bucket": bucket}
                for rest, change in group.items():
                    new = merge([self._row(kept[rest]), change]) if rest in kept else change
                    kept[rest] = self._values(new)
                    if self.order:
                        row[self.order] = new.get(self.order)
                row["data"] = known[(*key, topic, partition)] = _pack(kept)
                rows.append(row)
        replacing(self.table, connection.dialect.name)(connection, rows)

    def latest(self, connection: Connection, below: Mapping[Key, int]) -> dict[Key, bytes]:
        """What places contributed to keys by the end of the last bucket smaller than `below` says.

        By (key…, topic, partition); one look into the primary key's index each.
        """
        keys, names = list(below), (*self.keys, "at_topic", "at_partition", "below", "number")
        wanted = orjson.dumps(
            [dict(zip(names, (*key, below[key], n), strict=True)) for n, key in enumerate(keys)]
        )
        statement = _latest(self.table, connection.dialect.name)
        found = connection.execute(statement, {"wanted": wanted.decode()}).all()
        return {keys[number]: data for number, data in found if data is not None}

    def grouped(self, rows: Mapping[Key, Row]) -> dict[Key, dict[Any, Row]]:
        """Rows by the key of their history, then by what is packed of their own; where nothing is, by ""."""
        groups: dict[Key, dict[Any, Row]] = {}
        for key, row in rows.items():
            own, rest = (key, "") if len(key) == len(self.keys) else (key[:-1], key[-1])
            group = groups.get(own)
            if group is None:
                groups[own] = {rest: row}
            else:
                group[rest] = row
        return groups

    def packed(self, group: Mapping[Any, Row]) -> bytes:
        """A group of rows as it is kept."""
        return _pack({rest: self._values(row) for rest, row in group.items()})

    def unpacked(self, key: Key, data: bytes | None) -> Iterator[tuple[Key, Row]]:
        """The keys and rows that are kept under a key; of their columns those that have a value."""
        for rest, values in _unpack(data).items() if data else ():
            yield key if rest == "" else (*key, rest), self._row(values)

    def _values(self, row: Row) -> list[Any]:
        return [row.get(name) for name in self._names]

    def _row(self, values: list[Any]) -> Row:
        return {n: value for n, value in zip(self._names, values, strict=True) if value is not None}


@lru_cache(maxsize=256)
def _latest(history: Table, dialect: str) -> Select[Any]:
    h, given = history.c, bindparam("wanted", type_=Text())
    keys = [c for c in history.primary_key if c.name != "at_bucket"]
    found = select(h.data).order_by(h.at_bucket.desc()).limit(1)
    if dialect == "sqlite":
        wanted = func.json_each(given).table_valued("value", name="wanted")
        value = {
            name: func.json_extract(wanted.c.value, f'$."{name}"')
            for name in (*(c.name for c in keys), "below", "number")
        }
        found = found.where(*(c == value[c.name] for c in keys), h.at_bucket < value["below"])
        return select(value["number"], found.correlate(wanted).scalar_subquery()).select_from(wanted)
    rows = (
        func.json_to_recordset(cast(given, postgresql.JSON))
        .table_valued(
            *(column(c.name, c.type) for c in keys),
            *(column(name, INTEGER) for name in ("below", "number")),
            name="wanted",
        )
        .render_derived(name="wanted", with_types=True)
    )
    row = found.where(*(c == rows.c[c.name] for c in keys), h.at_bucket < rows.c.below).lateral("found")
    return select(rows.c.number, row.c.data).select_from(rows.join(row, true()))
