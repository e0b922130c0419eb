"""A history's last rows of each place merge to the live row, whatever the values and batches."""

from __future__ import annotations

import math
import random

import pytest
from sqlalchemy import Column, MetaData, Table

from projections.columns import FLOAT, INTEGER, MOST, TEXT
from projections.history import Slot, history_of
from projections.merging import (
    Merger,
    added,
    complete,
    earliest,
    greatest,
    latest,
    least,
    merged,
    put,
)
from projections.store import Store
from projections.writing import Row
from tests.conftest import NewDatabase

ODD = (math.nan, math.inf, -math.inf, 0.1 + 0.2, -1e308, None)


def table_of(metadata: MetaData, *, packed: bool) -> Table:
    """A table with a column of every way to merge, and keys of text and a number."""
    table = Table(
        "merged_1",
        metadata,
        Column("name", TEXT, primary_key=True),
        Column("bucket", INTEGER, primary_key=True, autoincrement=False),
        added("count"),
        least("low", FLOAT),
        greatest("high", FLOAT),
        greatest("stamp", FLOAT),
        latest("last", TEXT, by="stamp"),
        latest("odd", FLOAT, by="stamp"),
        least("begin", TEXT),
        earliest("first", TEXT, by="begin"),
    )
    assert history_of(table, "_1", packed=packed).name == "merged_history_1"
    return table


def made(chance: random.Random) -> Row:
    """Values of some columns."""
    row: Row = {"count": chance.choice([0, 1, MOST - 1])}
    for name in ("low", "high"):
        if chance.random() < 0.7:
            row[name] = chance.choice([*ODD, chance.random()])
    if chance.random() < 0.7:
        stamp = chance.choice([math.nan, None, chance.random()])
        row |= {"stamp": stamp, "last": chance.choice([None, f"{stamp}\x00"]), "odd": chance.choice(ODD)}
    if chance.random() < 0.5:
        begin = f"{chance.random()}"
        row |= {"begin": begin, "first": begin}
    return row


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_places_together_make_the_row(new_database: NewDatabase, seed: int, packed: bool) -> None:
    """NaN, infinities, nothing, sums that end, keys with NUL: a place's last row is all that it contributed."""
    chance = random.Random(seed)
    metadata = MetaData()
    table = table_of(metadata, packed=packed)
    history = table.info["history"]
    store = Store(new_database(), [])
    slots: list[Slot] = []
    with store._writer.begin() as connection:
        metadata.create_all(connection)
        for batch in range(12):
            merger = Merger(connection, table)
            for _ in range(chance.choice([1, 9])):
                slot = (
                    chance.choice(["s", "t\x7f"]),
                    chance.randrange(2),
                    batch // 3,
                )
                slots.append(slot)
                merger.add(
                    (chance.choice(["a\x00", "a\ufffd", "b'\"\\"]), chance.randrange(2)), made(chance), slot
                )
            merger.write()
        live = connection.execute(table.select().order_by(*table.primary_key)).all()
        keys = {row[: len(history.keys)] for row in live}
        below = {(*key, topic, partition): 99 for key in keys for topic, partition, _ in slots}
        found: dict[tuple[object, ...], list[Row]] = {}
        for (*key, _, _), data in history.latest(connection, below).items():
            for full, row in history.unpacked(tuple(key), data):
                found.setdefault(full, []).append(row)
        again = table.to_metadata(MetaData(), name="again")
        again.create(connection)
        put(connection, again, complete(again, {key: merged(table, rows) for key, rows in found.items()}))
        assert connection.execute(again.select().order_by(*again.primary_key)).all() == live
    store.close()


def test_a_row_below_a_bucket_is_that_of_the_last_one_before(new_database: NewDatabase) -> None:
    """Of a place's rows that one tells which is the last below; a place that said nothing before has none."""
    metadata = MetaData()
    table = table_of(metadata, packed=False)
    history = table.info["history"]
    store = Store(new_database(), [])
    with store._writer.begin() as connection:
        metadata.create_all(connection)
        for bucket in (2, 5, 6):
            merger = Merger(connection, table)
            merger.add(("a", 1), {"count": 1}, ("t", 0, bucket))
            merger.write()
        counts = []
        for below in range(9):
            kept = history.latest(connection, {("a", 1, "t", 0): below, ("a", 2, "t", 0): below}).values()
            counts.append([row["count"] for data in kept for _, row in history.unpacked(("a", 1), data)])
    assert counts == [[], [], [], [1], [1], [1], [2], [3], [3]]
    store.close()
