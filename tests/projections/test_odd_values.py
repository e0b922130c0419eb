"""Values that a database would refuse or change: the same comes of them on SQLite and PostgreSQL."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Index, MetaData, Table
from sqlalchemy.types import Boolean, DateTime

from projections.columns import BYTES, FLOAT, INTEGER, TEXT
from projections.events import Events
from projections.merging import Merger, added, greatest, keep_first, latest, least, put, put_new
from projections.store import Store
from projections.view import Entry, Tables, View
from projections.writing import MOST_INDEXED_BYTES
from schemas import events as e
from schemas.topics import MESSAGES
from tests.conftest import NewDatabase
from tests.projections.material import Log, rows, store_at

MOST = 2**63 - 1
SURROGATE = "\ud800"


class Odd(View):
    """Writes the values that its test gives for the event of that id."""

    name = "odd"
    about = "odd values"
    topics = (MESSAGES,)

    def __init__(self, values: dict[str, dict[str, Any]]) -> None:
        self.values = values

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """A column of each type."""
        table = Table(
            f"odd{suffix}",
            metadata,
            Column("id", TEXT, primary_key=True),
            Column("text", TEXT),
            Column("number", INTEGER),
            Column("real", FLOAT),
            Column("flag", Boolean()),
            Column("bytes", BYTES),
            Column("at", DateTime()),
            Column("needed", FLOAT, nullable=False),
        )
        Index(None, table.c.text)
        return {"odd": table}

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Write a row an event."""
        empty = dict.fromkeys(("text", "number", "real", "flag", "bytes", "at")) | {"needed": 0.0}
        put(
            connection,
            tables["odd"],
            [{"id": x.envelope.id} | empty | self.values[x.envelope.id] for x in batch],
        )


def written(url: str, values: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Rows by id as they are read back, and the ids of the entries that were refused."""
    store = store_at(url, [Odd(values)])
    log = Log()
    for id_ in values:
        log.append(e.MessagePosted(agent_id="a", role="user", content="x"), id=id_)
    refused = store.apply("odd", 1, log.entries, {}, log.ends)
    with store.read("odd") as reading:
        found = reading.connection.execute(reading.tables["odd"]["odd"].select()).all()
    store.close()
    return {row.id: row for row in found}, [r.entry.envelope.id for r in refused]


def test_what_can_be_kept_is_kept(new_database: NewDatabase) -> None:
    """Extreme values of every type come back as they were given."""
    from datetime import datetime

    values: dict[str, dict[str, Any]] = {
        "empty": {},
        "text": {"text": "'\"\\ \n\t\u2028 \U0010ffff \\u0000 {} %s :x ünï"},
        "large": {"number": MOST, "real": 1.7976931348623157e308},
        "small": {"number": -MOST - 1, "real": 5e-324},
        "tenth": {"real": 0.1 + 0.2},
        "minus": {"real": -0.0},
        "flag": {"flag": True, "number": 0},
        "bytes": {"bytes": bytes(range(256)), "flag": False},
        "none": {"bytes": b"", "text": ""},
        "at": {"at": datetime(2026, 11, 21, 12, 30, 0, 123456)},  # noqa: DTZ001 - as the column has it
        "whole": {"real": 3},
    }
    found, refused = written(new_database(), values)
    assert refused == []
    for id_, given in values.items():
        for name, value in given.items():
            read = getattr(found[id_], name)
            assert read == value, (id_, name)
            assert type(read) is (float if name == "real" else type(value))


def test_nul_becomes_a_mark(new_database: NewDatabase) -> None:
    """NUL, which PostgreSQL cannot keep in text, is U+FFFD everywhere; in bytes it stays."""
    found, refused = written(
        new_database(), {"nul": {"text": "a\x00b\x00", "bytes": b"\x00"}, "\x00id": {"text": "\x00"}}
    )
    assert refused == []
    assert (found["nul"].text, found["nul"].bytes) == ("a\ufffdb\ufffd", b"\x00")
    assert found["\ufffdid"].text == "\ufffd"


def test_what_is_no_number_is_none(new_database: NewDatabase) -> None:
    """Infinities are numbers; NaN is NULL, and refused where a number has to be."""
    odd = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    values = {name: {"real": value} for name, value in odd.items()}
    values |= {f"needed {name}": {"needed": value} for name, value in odd.items()}
    found, refused = written(new_database(), values)
    assert refused == ["needed nan"]
    assert {name: found[name].real for name in odd} == odd | {"nan": None}
    assert (found["needed inf"].needed, found["needed -inf"].needed) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    "value",
    [
        {"number": MOST + 1}, {"number": -MOST - 2}, {"number": 10**40},
        {"text": SURROGATE}, {"text": f"x{SURROGATE}\x00"},
        {"text": "x" * (MOST_INDEXED_BYTES + 1)}, {"text": "ü" * (MOST_INDEXED_BYTES // 2 + 1)},
        {"needed": None},
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_alone(new_database: NewDatabase, value: dict[str, Any]) -> None:
    """A value that a database cannot keep costs its own entry, and those beside it are written."""
    values = {f"good {n}": {"number": n} for n in range(20)}
    found, refused = written(new_database(), {**values, "bad": value, "last": {"text": "x" * 2_000}})
    assert refused == ["bad"]
    assert found.keys() == {*values, "last"}


def test_the_longest_names_fit_into_an_index(new_database: NewDatabase) -> None:
    """What the limit lets pass PostgreSQL's indexes hold, even where nothing of it can be compressed."""
    chance = random.Random(4)

    def noise(size: int) -> str:
        return "".join(
            chance.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", k=size)
        )

    log = Log()
    message = e.MessagePosted(agent_id="a", role="user", content="x")
    third = MOST_INDEXED_BYTES // 3
    log.append(message, id=noise(third), source=noise(third), project=noise(third))
    log.append(message, id="id", project="p", correlation_id=noise(MOST_INDEXED_BYTES - 1))
    log.append(message, id="too long", project="p", correlation_id=noise(MOST_INDEXED_BYTES))
    refused = store_at(new_database(), [Events()]).apply("events", 1, log.entries, {}, log.ends)
    assert [r.entry.envelope.id for r in refused] == ["too long"]


def test_not_a_number_does_not_hide_numbers(new_database: NewDatabase) -> None:
    """Of several values the extremes are those of the numbers, whatever stands between them."""
    metadata = MetaData()
    table = Table(
        "t", metadata, Column("id", TEXT, primary_key=True), least("low", FLOAT), greatest("high", FLOAT),
        added("count"), latest("last", FLOAT, by="high"),
    )  # fmt: skip
    store = Store(new_database(), [])
    for order in itertools.permutations((math.nan, 2.0, 1.0)):
        with store._writer.begin() as connection:
            metadata.create_all(connection)
            merger = Merger(connection, table)
            for value in order:
                merger.add(("x",), {"low": value, "high": value, "last": value, "count": 1})
            merger.write()
            row = connection.execute(table.select()).one()
            assert (row.low, row.high, row.last) == (1.0, 2.0, 2.0)
            metadata.drop_all(connection)


def test_one_key_twice_in_a_batch(new_database: NewDatabase) -> None:
    """Of rows with one key in one batch the smaller position stays, as of rows in two batches."""
    metadata = MetaData()
    table = Table(
        "t", metadata, Column("id", TEXT, primary_key=True), Column("topic", TEXT),
        Column("partition", INTEGER), Column("offset", INTEGER), Column("said", TEXT),
    )  # fmt: skip
    given = [
        {"id": "x", "topic": "t", "partition": p, "offset": o, "said": f"{p}/{o}"}
        for p, o in ((1, 3), (0, 9), (0, 7), (1, 1))
    ]
    store = Store(new_database(), [])
    with store._writer.begin() as connection:
        metadata.create_all(connection)
        keep_first(connection, table, given)
        assert connection.execute(table.select()).one().said == "0/7"


def test_a_new_row_is_not_put_over_an_old_one(new_database: NewDatabase) -> None:
    """`put_new` refuses a key that is there; `put` replaces its row."""
    from sqlalchemy.exc import IntegrityError

    metadata = MetaData()
    table = Table("t", metadata, Column("id", BYTES, primary_key=True), Column("said", TEXT))
    store = Store(new_database(), [])
    with store._writer.begin() as connection:
        metadata.create_all(connection)
        put_new(connection, table, [{"id": b"\x00", "said": "first"}])
        with pytest.raises(IntegrityError), connection.begin_nested():
            put_new(connection, table, [{"id": b"\x01", "said": "x"}, {"id": b"\x00", "said": "second"}])
        assert [row.said for row in connection.execute(table.select())] == ["first"]
        put(connection, table, [{"id": b"\x00", "said": "third"}])
        assert connection.execute(table.select()).one().said == "third"


def test_rows_agree_between_the_databases(tmp_path: Any, postgres: Any) -> None:
    """The same odd values read back from SQLite and from PostgreSQL are equal, row by row."""
    chance = random.Random(9)
    texts = ["", "\x00", "ü\u2028", "\U0010ffff", "{}", "\\", "null", "x" * 600]
    reals = [0.1, -0.0, 1e-320, 1e308, math.nan, math.inf, 123456789.123456789]
    values = {
        f"{number}": {
            "text": chance.choice(texts), "number": chance.randrange(-MOST, MOST), "flag": chance.choice([True, None]),
            "real": chance.choice(reals), "bytes": chance.randbytes(chance.randrange(5)),
        }
        for number in range(300)
    }  # fmt: skip
    kept = [written(url, values)[0] for url in (f"sqlite:///{tmp_path / 'v.sqlite'}", postgres.new_schema())]
    one, other = ({id_: tuple(row) for id_, row in each.items()} for each in kept)
    assert one == other


def test_events_with_nul_are_found(new_database: NewDatabase) -> None:
    """Who asks for a name with NUL finds the event that was written with it."""
    log = Log()
    log.append(
        e.MessagePosted(agent_id="a\x00", role="user", content="\x00"), correlation_id="r\x00", id="\x00"
    )
    store = store_at(new_database(), [Events()])
    store.apply("events", 1, log.entries, {}, log.ends)
    with store.read("events") as reading:
        table = reading.tables["events"]["events"]
        found = reading.connection.execute(table.select().where(table.c.correlation_id == "r\x00")).one()
    assert (found.correlation_id, found.key) == ("r\ufffd", "a\ufffd")
    assert '"content":"\\u0000"' in found.data
    assert len(rows(store, "events")["events"]) == 1
