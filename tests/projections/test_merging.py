"""Merging comes to one row, in memory as in SQL, in any order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects import postgresql

from projections.catalog import views
from projections.columns import FLOAT, MOST, TEXT
from projections.merging import Merger, Row, _plan, added, earliest, greatest, latest, least
from projections.store import Store


def table_of(metadata: MetaData) -> Table:
    """A table with a column of every way to merge."""
    return Table(
        "merged",
        metadata,
        Column("id", TEXT, primary_key=True),
        added("count"),
        least("low", FLOAT),
        greatest("high", FLOAT),
        greatest("stamp", TEXT),
        latest("last", TEXT, by="stamp"),
        least("begin", TEXT),
        earliest("first", TEXT, by="begin"),
    )


def made(chance: random.Random) -> Row:
    """Values of some columns."""
    row: Row = {"count": chance.choice([1, 2, MOST - 1])}
    if chance.random() < 0.7:
        row |= {"low": chance.random(), "high": chance.random()}
    if chance.random() < 0.7:
        number = chance.randrange(100)
        row |= {"stamp": f"{number:03}", "last": f"last {number}"}
        row |= {"begin": f"{number:03}", "first": None if number % 3 else f"first {number}"}
    return row


@pytest.mark.parametrize("seed", range(5))
def test_order_and_batches_do_not_matter(tmp_path: Path, seed: int) -> None:
    """The same changes in another order, in one batch or one by one, make the same row."""
    chance = random.Random(seed)
    changes = [made(chance) for _ in range(20)]
    found = []
    for number, size in enumerate((1, 3, 20)):
        store = Store(f"sqlite:///{tmp_path / str(number)}", [])
        metadata = MetaData()
        table = table_of(metadata)
        chance.shuffle(changes)
        with store._writer.begin() as connection:
            metadata.create_all(connection)
            for start in range(0, len(changes), size):
                merger = Merger(connection, table)
                for change in changes[start : start + size]:
                    merger.add(("x",), change)
                merger.write()
            found.append(connection.execute(table.select()).one())
    assert found[0] == found[1] == found[2]


def test_every_view_compiles_for_postgresql(tmp_path: Path) -> None:
    """Tables, indexes and upserts of all views can be said in PostgreSQL's SQL, names within its limits."""
    from sqlalchemy.schema import CreateIndex, CreateTable

    from projections.generations import _NAMING

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for view in views():
        metadata = MetaData(naming_convention=_NAMING)
        tables = view.tables(metadata, "_1")
        for table in metadata.sorted_tables:
            assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
            for index in table.indexes:
                sql = str(CreateIndex(index).compile(dialect=dialect))
                assert len(sql.split()[2]) <= 63
        for table in tables.values():
            if all("merge" in c.info for c in table.columns if not c.primary_key) and len(table.columns) > 3:
                statement = _plan(table, "postgresql").statement
                assert "ON CONFLICT" in str(statement.compile(dialect=dialect))
