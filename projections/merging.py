"""Upserts that come to the same row whatever the order of what they merge.

A column says how two of its values become one; each way is commutative and associative, so a view
built from them cannot depend on how topics interleave or where batches end. None says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Insert, Table, and_, case, or_, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine

from projections.columns import INTEGER, MOST

Row = dict[str, Any]


def added(name: str) -> Column[Any]:
    """A count: values add up, and stop at MOST."""
    return Column(name, INTEGER, nullable=False, default=0, info={"merge": "add"})


def least(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    """The smallest value seen."""
    return Column(name, kind, info={"merge": "min"})


def greatest(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    """The largest value seen."""
    return Column(name, kind, info={"merge": "max"})


def latest(name: str, kind: TypeEngine[Any], by: str) -> Column[Any]:
    """The value that came with the largest stamp; `by` names the stamp's column, declared by `greatest`."""
    return Column(name, kind, info={"merge": "with_max", "by": by})


def earliest(name: str, kind: TypeEngine[Any], by: str) -> Column[Any]:
    """The value that came with the smallest stamp; `by` names the stamp's column, declared by `least`."""
    return Column(name, kind, info={"merge": "with_min", "by": by})


def insert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """The dialect's own insert: both spell ON CONFLICT alike."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


class _Plan:
    """How a table's columns merge, and the statement that does it: what building them costs is paid once."""

    def __init__(self, table: Table, dialect: str) -> None:
        columns = [c for c in table.columns if not c.primary_key]
        self.keys = [c.name for c in table.primary_key]
        self.how: dict[str, str] = {c.name: c.info["merge"] for c in columns}
        self.stamped: dict[str, tuple[str, list[str]]] = {
            by: (sign, [c.name for c in columns if c.info.get("by") == by and c.info["merge"] == sign])
            for sign in ("with_min", "with_max")
            for by in {c.info["by"] for c in columns if c.info["merge"] == sign}
        }
        self.empty: Row = {name: 0 if how == "add" else None for name, how in self.how.items()}
        upsert = insert(dialect, table)
        old, new = table.c, upsert.excluded
        changes: dict[str, ColumnElement[Any]] = {}
        for name, how in self.how.items():
            if how == "add":
                total = old[name] + new[name]
                changes[name] = case((total > MOST, MOST), else_=total)
            elif how in ("min", "max"):
                wins = _wins(old[name], new[name], how == "min")
                changes[name] = case((wins, new[name]), else_=old[name])
        for by, (sign, names) in self.stamped.items():
            wins = _wins(old[by], new[by], sign == "with_min")
            changes |= {name: case((wins, new[name]), else_=old[name]) for name in names}
        self.statement: Insert = upsert.on_conflict_do_update(index_elements=self.keys, set_=changes)


@lru_cache(maxsize=256)
def _plan(table: Table, dialect: str) -> _Plan:
    return _Plan(table, dialect)


def _wins(old: ColumnElement[Any], new: ColumnElement[Any], is_min: bool) -> ColumnElement[bool]:
    beats = new < old if is_min else new > old
    return and_(new.is_not(None), or_(old.is_(None), beats))


class Merger:
    """Gathers changes to one table's rows in memory and writes each row once."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._plan = _plan(table, connection.dialect.name)
        self._rows: dict[tuple[Any, ...], Row] = {}

    def add(self, key: tuple[Any, ...], values: Row) -> None:
        """Merge `values` (some of the columns) into the row of `key` (the primary key's values, in order)."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = dict(zip(self._plan.keys, key, strict=True)) | self._plan.empty
        for by, (sign, names) in self._plan.stamped.items():
            new = values.get(by)
            if new is not None:
                old = row[by]
                if old is None or (new > old if sign == "with_max" else new < old):
                    for name in names:
                        row[name] = values.get(name)
        how = self._plan.how
        for name, new in values.items():
            way = how[name]
            if way == "add":
                total = row[name] + new
                row[name] = total if total < MOST else MOST  # noqa: FURB136 - min() costs three times this
            elif new is not None and (way == "min" or way == "max"):  # noqa: PLR1714 - hot, as above
                old = row[name]
                if old is None or (new < old if way == "min" else new > old):
                    row[name] = new

    def write(self) -> None:
        """Merge what was gathered into the table, rows in the key's order, and forget it."""
        if self._rows:
            self._connection.execute(self._plan.statement, [self._rows[k] for k in sorted(self._rows)])
            self._rows = {}


def keep_first(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows that have a topic, partition and offset; of two with one key the smaller position stays."""
    if rows:
        connection.execute(_keeping_first(table, connection.dialect.name), list(rows))


@lru_cache(maxsize=256)
def _keeping_first(table: Table, dialect: str) -> Insert:
    upsert = insert(dialect, table)
    old, new = table.c, upsert.excluded
    place = ("topic", "partition", "offset")
    return upsert.on_conflict_do_update(
        index_elements=[c.name for c in table.primary_key],
        set_={c.name: new[c.name] for c in table.columns if not c.primary_key},
        where=tuple_(*(new[n] for n in place)) < tuple_(*(old[n] for n in place)),
    )


def put(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; one whose key is there replaces it."""
    if rows:
        connection.execute(_putting(table, connection.dialect.name), list(rows))


@lru_cache(maxsize=256)
def _putting(table: Table, dialect: str) -> Insert:
    upsert = insert(dialect, table)
    return upsert.on_conflict_do_update(
        index_elements=[c.name for c in table.primary_key],
        set_={c.name: upsert.excluded[c.name] for c in table.columns if not c.primary_key},
    )
