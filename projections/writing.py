"""Many rows in one call, with the same result on SQLite and PostgreSQL.

SQLAlchemy binds every value of every row in Python, which takes longer than the database takes to
write them. Here SQLite gets tuples and one compiled statement, PostgreSQL one statement with all rows
as one JSON array. What the two would keep differently, or not at all, is settled before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isinf
from operator import itemgetter
from typing import Any

import orjson
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Dialect,
    Double,
    Insert,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from projections.columns import INTEGER, TEXT, without_nul
from schemas.errors import HeadwaterError

Row = dict[str, Any]
Upsert = sqlite.Insert | postgresql.Insert
MOST_INDEXED_BYTES = 2_500
"""Of text in one index's columns together: PostgreSQL's pages hold 2,704 bytes of an index entry."""
_TEXTS = (type(TEXT), Text, String)
_PLAIN = (*_TEXTS, type(INTEGER), Double, Boolean, LargeBinary)


class TooLongForIndex(HeadwaterError):
    """A row's names are longer than an index can hold."""


class Writing:
    """One insert of many rows into a table; `conflict` says what to do with a key that is there."""

    def __init__(
        self, table: Table, dialect: str, conflict: Callable[[Upsert], Insert] | None = None
    ) -> None:
        def whole(insert: Upsert) -> Insert:
            return insert if conflict is None else conflict(insert)

        self._names = [c.name for c in table.columns]
        self._texts = [c.name for c in table.columns if type(c.type) in _TEXTS]
        self._floats = [c.name for c in table.columns if type(c.type) is Double]
        self._others = _processors(table, dialect)
        self._indexed = _indexed(table)
        if dialect == "sqlite":
            self._sql = _positional(whole(sqlite.insert(table)), self._names)
            self._values = itemgetter(*self._names) if len(self._names) > 1 else _only(self._names[0])
        else:
            self._statement = whole(_from_json(table))

    def __call__(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Write rows, which have a value for every column and are taken over; each key at most once.

        Raises TooLongForIndex, and whatever the driver makes of a value of another type.
        """
        if not rows:
            return
        self._settle(rows)
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(self._sql, list(map(self._values, rows)))
        else:
            _name_infinities(rows, self._floats)
            connection.execute(self._statement, {"rows": orjson.dumps(rows, default=_hex).decode()})

    def _settle(self, rows: Sequence[Row]) -> None:
        _without_nul(rows, self._texts)
        for name, processor in self._others:
            for row in rows:
                row[name] = processor(row[name])
        longest = {
            name: max(len(row[name] or "") for row in rows) for names in self._indexed for name in names
        }
        for names in self._indexed:
            if sum(longest[name] for name in names) * 4 > MOST_INDEXED_BYTES:
                _refuse_long(rows, names)


@lru_cache(maxsize=256)
def replacing(table: Table, dialect: str) -> Writing:
    """An insert by which a row takes the place of one with its key; made once a table."""
    others = [c.name for c in table.columns if not c.primary_key]

    def conflict(upsert: Upsert) -> Insert:
        key = list(table.primary_key)
        if not others:
            return upsert.on_conflict_do_nothing(index_elements=key)
        return upsert.on_conflict_do_update(
            index_elements=key, set_={name: upsert.excluded[name] for name in others}
        )

    return Writing(table, dialect, conflict)


def _without_nul(rows: Sequence[Row], names: Sequence[str]) -> None:
    for name in names:
        for row in rows:
            value = row[name]
            if value and "\x00" in value:
                row[name] = without_nul(value)


def _name_infinities(rows: Sequence[Row], names: Sequence[str]) -> None:
    """JSON has neither infinities nor NaN; NaN may become null, as SQLite keeps it."""
    for name in names:
        for row in rows:
            value = row[name]
            if value is not None and isinf(value):
                row[name] = "Infinity" if value > 0 else "-Infinity"


def _from_json(table: Table) -> postgresql.Insert:
    rows = (
        func.json_to_recordset(cast(bindparam("rows", type_=Text()), postgresql.JSON))
        .table_valued(*(column(c.name, c.type) for c in table.columns), name="new_rows")
        .render_derived(name="new_rows", with_types=True)
    )
    names = [c.name for c in table.columns]
    return postgresql.insert(table).from_select(names, select(*(rows.c[name] for name in names)))


def _positional(insert: Insert, names: Sequence[str]) -> str:
    compiled = insert.compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=list(names))
    assert compiled.positiontup == list(names), "an upsert has no values but the row's"
    return str(compiled)


def _processors(table: Table, dialect: str) -> list[tuple[str, Callable[[Any], Any]]]:
    """How values of types that are not ours are given to the driver."""
    known: Dialect = sqlite.dialect() if dialect == "sqlite" else postgresql.dialect()  # type: ignore[no-untyped-call]
    found: list[tuple[str, Callable[[Any], Any]]] = []
    for c in table.columns:
        if type(c.type) not in _PLAIN:
            processor = c.type.dialect_impl(known).bind_processor(known)
            if processor is not None:
                found.append((c.name, processor))
    return found


def _indexed(table: Table) -> list[list[str]]:
    """The text columns of each index, the primary key's included."""
    groups: list[Sequence[Column[Any]]] = [list(table.primary_key)]
    groups += [list(index.columns) for index in table.indexes]
    return [names for group in groups if (names := [c.name for c in group if type(c.type) in _TEXTS])]


def _refuse_long(rows: Sequence[Row], names: Sequence[str]) -> None:
    for row in rows:
        size = sum(len((row[name] or "").encode(errors="surrogatepass")) for name in names)
        if size > MOST_INDEXED_BYTES:
            raise TooLongForIndex(
                f"{', '.join(names)} take {size:,} bytes, an index holds {MOST_INDEXED_BYTES:,}",
                hint="give shorter names and ids",
            )


def _only(name: str) -> Callable[[Row], tuple[Any]]:
    return lambda row: (row[name],)


def _hex(value: Any) -> str:
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return str(value)
