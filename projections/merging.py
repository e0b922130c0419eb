"""Upserts that come to the same row whatever the order of what they merge.

A column says how two of its values become one; each way is commutative and associative, so a view
built from them cannot depend on how topics interleave or where batches end. None says nothing, and
so does NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
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

from projections.columns import INTEGER, MOST
from projections.writing import Row, Upsert, Writing


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
    """How a table's columns merge, in memory and in SQL; made once a table."""

    def __init__(self, table: Table, dialect: str) -> None:
        how = {str(c.name): c.info for c in table.columns if not c.primary_key}
        stamps = {info["by"] for info in how.values() if "by" in info}
        self.keys = [str(c.name) for c in table.primary_key]
        self.counts = [name for name, info in how.items() if info["merge"] == "add"]
        self.extremes = [
            (name, _PICK[info["merge"]])
            for name, info in how.items()
            if info["merge"] in _PICK and "by" not in info and name not in stamps
        ]
        self.stamped = [
            (by, _PICK[how[by]["merge"]], [name for name, info in how.items() if info.get("by") == by])
            for by in stamps
        ]
        self.write = Writing(table, dialect, lambda upsert: _merged(table, upsert))


_PICK = {"min": min, "max": max}


@lru_cache(maxsize=256)
def _plan(table: Table, dialect: str) -> _Plan:
    return _Plan(table, dialect)


def _merged(table: Table, upsert: Upsert) -> Insert:
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
    """Gathers changes to one table's rows in memory and writes each row once."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._plan = _plan(table, connection.dialect.name)
        self._changes: dict[tuple[Any, ...], list[Row]] = {}

    def add(self, key: tuple[Any, ...], values: Row) -> None:
        """Merge `values` (some of the columns) into the row of `key` (the primary key's values, in order)."""
        changes = self._changes.get(key)
        if changes is None:
            self._changes[key] = [values]
        else:
            changes.append(values)

    def write(self) -> None:
        """Merge what was gathered into the table, rows in the key's order, and forget it."""
        self._plan.write(self._connection, [self._row(key) for key in sorted(self._changes)])
        self._changes = {}

    def _row(self, key: tuple[Any, ...]) -> Row:
        """What all changes of a key come to: column by column, which takes half of change by change."""
        plan, changes = self._plan, self._changes[key]
        row: Row = dict(zip(plan.keys, key, strict=True))
        for name in plan.counts:
            row[name] = min(MOST, sum([c[name] for c in changes if name in c]))
        for name, pick in plan.extremes:
            values = [v for c in changes if (v := c.get(name)) is not None and v == v]  # noqa: PLR0124 - not NaN
            row[name] = pick(values) if values else None
        for by, pick, names in plan.stamped:
            said = [c for c in changes if (v := c.get(by)) is not None and v == v]  # noqa: PLR0124 - not NaN
            winner = pick(said, key=itemgetter(by)) if said else {}
            row[by] = winner.get(by)
            for name in names:
                row[name] = winner.get(name)
        return row


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
    _putting(table, connection.dialect.name)(connection, rows)


@lru_cache(maxsize=256)
def _putting(table: Table, dialect: str) -> Writing:
    def conflict(upsert: Upsert) -> Insert:
        return upsert.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={c.name: upsert.excluded[c.name] for c in table.columns if not c.primary_key},
        )

    return Writing(table, dialect, conflict)


def put_new(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows whose keys are not there yet; raises IntegrityError where one is."""
    _putting_new(table, connection.dialect.name)(connection, rows)


@lru_cache(maxsize=256)
def _putting_new(table: Table, dialect: str) -> Writing:
    return Writing(table, dialect)


__all__ = [
    "Merger", "Row", "added", "earliest", "greatest", "keep_first", "latest", "least", "put", "put_new",
]  # fmt: skip
