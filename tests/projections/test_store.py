"""Rows and offsets change together, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from projections.anomalies import Anomalies
from projections.catalog import view_named, views
from projections.components import Components
from projections.events import Events
from projections.generations import BUILDING, LIVE, ViewHeld, ViewMoved, ViewNotReady
from projections.store import Store
from projections.view import Entry, Tables
from schemas import events as e
from schemas.errors import ConfigurationError
from tests.conftest import NewDatabase
from tests.projections.material import BEGIN, Log, busy_log, feed, interleaved, rows, store_at


@pytest.mark.parametrize("seed", range(4))
def test_interleaving_and_batches_do_not_matter(new_database: NewDatabase, seed: int) -> None:
    """Whatever way topics interleave and batches end, every view comes to the same rows."""
    log = busy_log(seed)
    one, other = store_at(new_database(), views()), store_at(new_database(), views())
    feed(one, log.entries, log.ends)
    feed(other, interleaved(log.entries, seed), log.ends, batch=17 + seed)
    for view in views():
        assert _said(one, view.name) == _said(other, view.name), view.name
        assert one.live(view.name) == other.live(view.name)
    assert sum(map(len, rows(one, "events").values())) > 300


def _said(store: Store, name: str) -> dict[str, list[tuple[Any, ...]]]:
    """All but histories, and what did not count: of an event in two partitions the copy read first counts."""
    return {t: r for t, r in rows(store, name).items() if not t.endswith("_history") and t != "uncounted"}


def test_a_crash_before_the_commit_leaves_nothing(new_database: NewDatabase) -> None:
    """A writer killed after its changes and before its commit has changed neither rows nor offsets."""
    log = busy_log()
    url = new_database()
    store = store_at(url, [Events()])
    half = log.entries[:300]
    feed(store, half, {})
    before = rows(store, "events"), store.live("events")
    script = """
import os, signal, sys
from projections.events import Events
from tests.conftest import NewDatabase
from tests.projections.material import busy_log, store_at
class Killed(Events):
    def apply(self, connection, tables, batch):
        super().apply(connection, tables, batch)
        assert connection.exec_driver_sql("select count(*) from events_1").scalar() > int(sys.argv[2])
        os.kill(os.getpid(), signal.SIGKILL)
store = store_at(sys.argv[1], [Killed()])
rest = [x for x in busy_log().entries[300:] if x.topic != "signals"]
store.apply("events", 1, rest, {}, {(x.topic, x.partition): x.offset + 1 for x in rest})
"""
    count = len(before[0]["events"])
    done = subprocess.run(
        [sys.executable, "-c", script, url, str(count)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (rows(store, "events"), store.live("events")) == before
    feed(store, log.entries[300:], log.ends)
    assert len(rows(store, "events")["events"]) > count


def test_an_error_in_the_transaction_leaves_nothing(new_database: NewDatabase) -> None:
    """The database's own trouble rolls rows and offsets back, and the same batch can be applied again."""

    class Troubled(Events):
        trouble = True

        def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
            super().apply(connection, tables, batch)
            if self.trouble:
                raise OperationalError("insert", {}, Exception("disk I/O error"))

    view = Troubled()
    store = store_at(new_database(), [view])
    log = busy_log(events=50)
    with pytest.raises(OperationalError):
        feed(store, log.entries, log.ends)
    assert rows(store, "events")["events"] == []
    assert store.live("events") == (1, {})
    view.trouble = False
    feed(store, log.entries, log.ends)
    assert rows(store, "events")["events"]


def test_an_entry_that_breaks_a_view_is_left_out(new_database: NewDatabase) -> None:
    """Of a batch with an entry that the view or SQL cannot take, all others are applied, and it is named."""

    class Picky(Events):
        def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
            super().apply(connection, tables, batch)
            if any(x.envelope.id == "id-7" for x in batch):
                raise KeyError("seven")

    store = store_at(new_database(), [Picky()])
    log = Log()
    for number in range(20):
        log.append(e.MessagePosted(agent_id="a", role="user", content=str(number)))
    log.append(e.MessagePosted(agent_id="a", role="user", content="x"), at=float("nan"))
    refused = store.apply("events", 1, log.entries, {}, log.ends)
    assert [r.entry.envelope.id for r in refused] == ["id-7", "id-20"]
    assert len(rows(store, "events")["events"]) == 19
    assert store.live("events")[1] == log.ends


def test_two_writers_cannot_count_twice(new_database: NewDatabase) -> None:
    """A batch that does not begin where the view stands is refused."""
    store = store_at(new_database(), [Components()])
    store.apply("components", 1, [], {}, {("signals", 0): 10})
    for believed in (9, None):
        with pytest.raises(ViewMoved, match="stands at 10"):
            store.apply("components", 1, [], {("signals", 0): believed}, {("signals", 0): 12})
    with pytest.raises(ViewMoved, match="stands at None"):  # as after a database was put back
        store.apply("components", 1, [], {("signals", 1): 7}, {("signals", 1): 12})
    assert store.live("components")[1] == {("signals", 0): 10}


def test_readers_see_one_moment(new_database: NewDatabase) -> None:
    """Rows and offsets of a reading agree while a writer goes on, and the reader does not block it."""
    store = store_at(new_database(), [Events()])
    log = Log()
    entries = [log.append(e.MessagePosted(agent_id="a", role="user", content="x")) for _ in range(300)]
    done = threading.Event()

    def write() -> None:
        for entry in entries:
            place = (entry.topic, 0)
            store.apply("events", 1, [entry], {}, {place: entry.offset + 1})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    looks = 0
    while not done.is_set() or looks == 0:
        with store.read("events") as reading:
            count = reading.connection.execute(text("select count(*) from events_1")).scalar()
            offsets = reading.offsets["events"]
            last = reading.connection.execute(text('select max("offset") from events_1')).scalar()
        assert offsets.get(("agent.messages", 0), 0) == (0 if last is None else last + 1)
        assert (count == 0) == (last is None)
        looks += 1
    writer.join()
    assert looks > 1


def test_a_view_that_is_not_made_says_so(new_database: NewDatabase) -> None:
    """Before the views process has run, a question gets a clear error that says what to start."""
    store = Store(new_database(), views())
    with pytest.raises(ViewNotReady, match="headwater views"):
        store.live("events")
    with pytest.raises(ViewNotReady), store.read("events"):
        pass


def test_another_version_begins_anew(new_database: NewDatabase) -> None:
    """A view of a new version drops its rows and offsets, and is read from the log's start again."""
    store = store_at(new_database(), [Anomalies(), Events()])
    log = busy_log()
    feed(store, log.entries, log.ends)

    class Newer(Anomalies):
        version = 2

    newer = Store(store.url, [Newer(), Events()])
    with pytest.raises(ViewNotReady):
        newer.live("anomalies")
    newer.prepare()
    assert newer.live("anomalies") == (2, {})
    assert rows(newer, "anomalies") == {"anomalies": []}
    assert newer.live("events")[1]
    tables = inspect(create_engine(store.url)).get_table_names()
    assert [name for name in tables if name.startswith("anomalies")] == ["anomalies_2"]


def test_a_built_generation_takes_the_place_of_the_live_one(new_database: NewDatabase) -> None:
    """A rebuild is not seen before the swap, is refused while it is behind, and ends the old generation."""
    store = store_at(new_database(), [Events()])
    log = busy_log()
    feed(store, log.entries, log.ends)
    live = rows(store, "events")
    ends = store.live("events")[1]
    generation = store.begin_build("events")
    mine = [x for x in log.entries if x.topic in {t.name for t in Events().topics}]
    store.apply("events", generation, mine[:100], {}, {})
    assert rows(store, "events") == live
    assert not store.swap("events", generation, ends)
    store.apply("events", generation, mine[100:], {}, ends)
    assert [state for _, _, state in store.states("events")] == [LIVE, BUILDING]
    assert store.swap("events", generation, ends)
    assert rows(store, "events") == live
    assert store.live("events") == (generation, ends)
    with pytest.raises(ViewMoved):
        store.apply("events", 1, [], {}, ends)
    store.drop_retired("events")
    assert [state for _, _, state in store.states("events")] == [LIVE]


def test_a_second_rebuild_ends_the_first(new_database: NewDatabase) -> None:
    """Where two rebuild one view at once, the later one wins and the earlier one finds out."""
    store = store_at(new_database(), [Events()])
    first = store.begin_build("events")
    second = store.begin_build("events")
    with pytest.raises(ViewMoved):
        store.apply("events", first, [], {}, {})
    store.apply("events", second, [], {}, {})
    assert store.swap("events", second, {})


def test_a_held_view_waits_and_no_longer_than_said(new_database: NewDatabase) -> None:
    """A rebuild can hold the live view back; the hold ends by itself."""
    store = store_at(new_database(), [Events()])
    store.hold("events", 30)
    with pytest.raises(ViewHeld):
        store.apply("events", 1, [], {}, {})
    store.hold("events", -1)
    store.apply("events", 1, [], {}, {})


def test_of_a_duplicate_the_smaller_position_stays(new_database: NewDatabase) -> None:
    """An event delivered twice is one row: that of the smaller position, whichever came first."""
    log = Log()
    first = log.append(e.MessagePosted(agent_id="a", role="user", content="x"), partition=0)
    second = log.repeat(first, partition=1)
    for batches in ([[first], [second]], [[second], [first]], [[first, second]], [[second, first]]):
        store = store_at(new_database(), [Events()])
        for batch in batches:
            store.apply("events", 1, batch, {}, {})
        (row,) = rows(store, "events")["events"]
        assert (row.partition if hasattr(row, "partition") else row[4]) == 0


def test_an_unknown_view_is_named() -> None:
    """Asking for a view that does not exist lists those that do."""
    with pytest.raises(ConfigurationError, match="components"):
        view_named("compnents")


def test_times_far_off_do_not_break_a_view(new_database: NewDatabase) -> None:
    """Events of the year 1, of 9999 and beyond are taken by every view."""
    log = Log()
    for at in (-62_135_596_800.0, BEGIN, 253_402_300_799.0, 1e15, -1e15):
        log.append(e.Signal(component="c", kind="call", name="latency_ms", value=1e308, failed=True), at=at)
        log.append(e.RunStarted(run_id="r", agent_id="a", task="\x00"), at=at)
        log.append(e.AgentHeartbeat(agent_id="a", load=1e308, version="1"), at=at)
    store = store_at(new_database(), views())
    feed(store, log.entries, log.ends)
    assert rows(store, "components")["components"][0][4] == 5


@pytest.mark.parametrize("tokens", [2**63 - 1, 2**62])
def test_sums_end_and_do_not_break(new_database: NewDatabase, tokens: int) -> None:
    """Counts of absurd size stop at a limit, in one batch as in many."""
    log = Log()
    for _ in range(6):
        log.append(
            e.Signal(
                component="c",
                kind="call",
                name="latency_ms",
                failed=False,
                agent_id="a",
                input_tokens=tokens,
                cost_usd=1e300,
            )
        )
        log.append(
            e.LlmCallCompleted(
                agent_id="a", call_id="c", provider_name="p", request_model="m", input_tokens=tokens
            ),
            correlation_id="r",
        )
    for batch in (1, 100):
        store = store_at(new_database(), views())
        feed(store, log.entries, log.ends, batch=batch)
        with store.read("components", "runs") as reading:
            for name in ("components", "runs"):
                table = reading.tables[name][name]
                row = reading.connection.execute(table.select()).one()
                assert row.input_tokens == 2**62 - 1
