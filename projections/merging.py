"""Upserts that come to the same row whatever the order of what they merge.

A column says how two of its values become one; each way is commutative and associative, so a view
built from them cannot depend on how topics interleave or where batches end. None says nothing, and
so does NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Insert,
    Table,
    and_,
    case,
    literal_column,
    or_,
    tuple_,
)
from sqlalchemy.types import TypeEngine

from projections.columns import INTEGER, MOST, TEXT, without_nul
from projections.history import History, Key, Slot
from projections.writing import Row, Upsert, Writing, replacing


def added(name: str) -> Column[Any]:
    """A count: values add up, and stop at MOST."""
    return Column(name, INTEGER, nullable=False, info={"merge": "add"})


def least(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    """The smallest value seen."""
    return Column(name, kind, info={"merge": "min"})


def greatest(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    """The largest value seen."""
    return Column(name, kind, info={"merge": "max"})


def latest(name: str, kind: TypeEngine[Any], by: str) -> Column[Any]:
    """The value that came with the largest stamp; `by` names the stamp's column, declared by `greatest`."""
    return Column(name, kind, info={"merge": "max", "by": by})


def earliest(name: str, kind: TypeEngine[Any], by: str) -> Column[Any]:
    """The value that came with the smallest stamp; `by` names the stamp's column, declared by `least`."""
    return Column(name, kind, info={"merge": "min", "by": by})


class _Plan:
    """How a table's columns merge in memory; made once a table."""

    def __init__(self, table: Table) -> None:
        how = {str(c.name): c.info for c in table.columns if not c.primary_key}
        stamps = {info["by"] for info in how.values() if "by" in info}
        self.keys = [str(c.name) for c in table.primary_key]
        self.texts = [i for i, c in enumerate(table.primary_key) if c.type is TEXT]
        self.blank: Row = {name: 0 if info["merge"] == "add" else None for name, info in how.items()}
        self.counts = [name for name, info in how.items() if info["merge"] == "add"]
        self.extremes = [
            (name, _PICK[info["merge"]])
            for name, info in how.items()
            if info["merge"] in _PICK and "by" not in info and name not in stamps
        ]
        self.sole = self.counts[0] if list(how) == self.counts[:1] else None
        self.stamped = [
            (by, _PICK[how[by]["merge"]], [name for name, info in how.items() if info.get("by", name) == by])
            for by in stamps
        ]

    def merge(self, changes: Sequence[Row]) -> Row:
        """What all changes of a key come to: those columns of which something was said.

        Column by column: where a key has many changes that takes half of change by change. A table with a
        count alone has many keys with few changes.
        """
        if self.sole is not None:
            name = self.sole
            return {name: min(MOST, sum([c[name] for c in changes]))}
        row: Row = {}
        said = changes[0].keys() if len(changes) == 1 else set().union(*changes)
        for name in self.counts:
            if name in said:
                row[name] = min(MOST, sum([c[name] for c in changes if name in c]))
        for name, pick in self.extremes:
            if name in said:
                values = [v for c in changes if (v := c.get(name)) is not None and v == v]  # noqa: PLR0124 - not NaN
                if values:
                    row[name] = pick(values)
        for by, pick, names in self.stamped:
            if by in said:
                stamped = [c for c in changes if (v := c.get(by)) is not None and v == v]  # noqa: PLR0124 - not NaN
                if stamped:
                    winner = pick(stamped, key=itemgetter(by))
                    row.update({name: winner[name] for name in names if name in winner})
        return row


_PICK = {"min": min, "max": max}


_plan = lru_cache(maxsize=256)(_Plan)


def merged(table: Table, changes: Sequence[Row]) -> Row:
    """What changes of one row come to: those columns of which something was said."""
    return _plan(table).merge(changes)


def complete(table: Table, rows: Mapping[Key, Row]) -> list[Row]:
    """Rows with all columns, in the order of their keys."""
    plan = _plan(table)
    return [{**plan.blank, **dict(zip(plan.keys, key, strict=True)), **rows[key]} for key in sorted(rows)]


@lru_cache(maxsize=256)
def _merging(table: Table, dialect: str) -> Writing:
    return Writing(table, dialect, lambda upsert: _upsert(table, upsert))


def _upsert(table: Table, upsert: Upsert) -> Insert:
    old, new = table.c, upsert.excluded
    most: ColumnElement[Any] = literal_column(str(MOST))
    changes: dict[str, ColumnElement[Any]] = {}
    for c in table.columns:
        if c.primary_key:
            continue
        way, by = c.info["merge"], c.info.get("by", c.name)
        if way == "add":
            total = old[c.name] + new[c.name]
            changes[c.name] = case((total > most, most), else_=total)
        else:
            changes[c.name] = case((_wins(old[by], new[by], way == "min"), new[c.name]), else_=old[c.name])
    return upsert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes)


def _wins(old: ColumnElement[Any], new: ColumnElement[Any], is_min: bool) -> ColumnElement[bool]:
    beats = new < old if is_min else new > old
    return and_(new.is_not(None), or_(old.is_(None), beats))


class Merger:
    """Gathers changes to one table's rows in memory and writes each row once, and its history where it has one."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._table = table
        self._history: History | None = table.info.get("history")
        self._slots: dict[Slot | None, dict[Key, list[Row]]] = {}

    def add(self, key: Key, values: Row, slot: Slot | None = None) -> None:
        """Merge `values` (some of the columns) into the row of `key` (the primary key's values, in order).

        A table with a history has to know the `slot` that they come from.
        """
        changes = self._slots.get(slot)
        if changes is None:
            changes = self._slots[slot] = {}
        of_key = changes.get(key)
        if of_key is None:
            changes[key] = [values]
        else:
            of_key.append(values)

    def write(self) -> None:
        """Merge what was gathered into the table, rows in the key's order, and forget it."""
        plan = _plan(self._table)
        merge = plan.merge
        parts: dict[Key, list[Row]] = {}
        slots: dict[Slot, dict[Key, Row]] = {}
        for slot, changes in self._slots.items():
            _settle(changes, plan.texts)
            here = {key: merge(of_key) for key, of_key in changes.items()}
            if self._history is not None:
                assert slot is not None, "a history needs to know where a change comes from"
                slots[slot] = here
            for key, row in here.items():
                parts.setdefault(key, []).append(row)
        if self._history is not None and slots:
            self._history.remember(self._connection, slots, merge)
        rows = {key: some[0] if len(some) == 1 else merge(some) for key, some in parts.items()}
        _merging(self._table, self._connection.dialect.name)(self._connection, complete(self._table, rows))
        self._slots = {}


def _settle(changes: dict[Key, list[Row]], texts: Sequence[int]) -> None:
    """Go by the keys that the table will have: two may differ in their NULs alone."""
    for i in texts:
        for key in [key for key in changes if "\x00" in key[i]]:
            whole = (*key[:i], without_nul(key[i]), *key[i + 1 :])
            changes.setdefault(whole, []).extend(changes.pop(key))


def keep_first(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows that have a topic, partition and offset; of two with one key the smaller position stays."""
    first: dict[tuple[Any, ...], Row] = {}
    key, place = itemgetter(*(c.name for c in table.primary_key)), itemgetter(*_PLACE)
    for row in rows:
        known = first.setdefault(key(row), row)
        if known is not row and place(row) < place(known):
            first[key(row)] = row
    _keeping_first(table, connection.dialect.name)(connection, list(first.values()))


_PLACE = ("topic", "partition", "offset")


@lru_cache(maxsize=256)
def _keeping_first(table: Table, dialect: str) -> Writing:
    def conflict(upsert: Upsert) -> Insert:
        return upsert.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={c.name: upsert.excluded[c.name] for c in table.columns if not c.primary_key},
            where=tuple_(*(upsert.excluded[n] for n in _PLACE)) < tuple_(*(table.c[n] for n in _PLACE)),
        )

    return Writing(table, dialect, conflict)


def put(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; one whose key is there replaces it."""
    replacing(table, connection.dialect.name)(connection, rows)


def put_new(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows whose keys are not there yet; raises IntegrityError where one is."""
    _putting_new(table, connection.dialect.name)(connection, rows)


@lru_cache(maxsize=256)
def _putting_new(table: Table, dialect: str) -> Writing:
    return Writing(table, dialect)


__all__ = [
    "Merger", "Row", "added", "complete", "earliest", "greatest", "keep_first", "latest", "least", "merged", "put",
    "put_new",
]  # fmt: skip
