"""Merging comes to one row, in memory as in SQL, in any order."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import Column, MetaData, Table

from projections.columns import FLOAT, MOST, TEXT
from projections.merging import Merger, added, earliest, greatest, latest, least
from projections.store import Store
from projections.writing import Row
from tests.conftest import NewDatabase


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
def test_order_and_batches_do_not_matter(new_database: NewDatabase, seed: int) -> None:
    """The same changes in another order, in one batch or one by one, make the same row."""
    chance = random.Random(seed)
    changes = [made(chance) for _ in range(20)]
    found = []
    for size in (1, 3, 20):
        store = Store(new_database(), [])
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
