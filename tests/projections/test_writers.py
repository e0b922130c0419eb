"""Several writers and readers of one database, alive, stopped and killed, at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, text

from projections.components import Components
from projections.events import Events
from projections.generations import ViewMoved
from projections.store import Store
from projections.view import Entry, Tables
from schemas import events as e
from tests.conftest import NewDatabase
from tests.postgres import USER, Cluster
from tests.projections.material import Log, feed, rows, store_at

ROOT = Path(__file__).parents[2]
PLACE = ("signals", 0)


def signals(count: int) -> Log:
    """A log of one partition of signals."""
    log = Log()
    for number in range(count):
        log.append(e.Signal(component=f"tool:{number % 7}", kind="call", name="latency_ms", failed=False))
    return log


def together(*calls: Callable[[], None]) -> None:
    """Run them at once; raise what one of them raised."""
    failures: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def follow(url: str, log: Log) -> None:
    """Write a log into a view as the views process does, beside others that do the same."""
    store = Store(url, [Components()])
    end = log.ends[PLACE]
    while True:
        generation, stored = store.live("components")
        at = stored.get(PLACE)
        if at == end:
            break
        batch = [x for x in log.entries if x.offset >= (at or 0)][:10]
        last = batch[-1].offset + 1 if len(batch) == 10 else end
        try:
            store.apply("components", generation, batch, {PLACE: at}, {PLACE: last})
        except ViewMoved:
            continue
    store.close()


def test_two_processes_double_nothing(new_database: NewDatabase) -> None:
    """Writers that follow the same log at once come to the rows of one alone."""
    url, log = new_database(), signals(400)
    store_at(url, [Components()]).close()
    together(*[lambda: follow(url, log)] * 3)
    alone = store_at(new_database(), [Components()])
    feed(alone, log.entries, log.ends)
    seen = Store(url, [Components()])
    assert rows(seen, "components") == rows(alone, "components")
    assert seen.live("components") == alone.live("components")


def replaced(store: Store, log: Log) -> None:
    """Rebuild the view and drop what was there before at once."""
    generation = store.begin_build("events")
    store.apply("events", generation, log.entries, {}, log.ends)
    assert store.swap("events", generation, log.ends)
    store.drop_retired("events")


def messages(count: int) -> Log:
    """A log of messages."""
    log = Log()
    for number in range(count):
        log.append(e.MessagePosted(agent_id="a", role="user", content=str(number)))
    return log


def test_what_is_being_read_stays(new_database: NewDatabase) -> None:
    """A view replaced in the middle of a reading keeps its rows for it to the end; the next one is new."""
    store, log = store_at(new_database(), [Events()]), messages(50)
    feed(store, log.entries, log.ends)
    replacing = threading.Thread(target=replaced, args=(store, messages(60)))
    with store.read("events") as reading:
        replacing.start()
        replacing.join(0.7)  # PostgreSQL drops the old tables when we are done
        table = reading.tables["events"]["events"]
        assert len(reading.connection.execute(table.select()).all()) == 50
    replacing.join()
    assert len(rows(store, "events")["events"]) == 60


def test_readers_never_meet_a_swap(new_database: NewDatabase) -> None:
    """While the view is replaced again and again, every reading has all rows, and none fails."""
    store, log = store_at(new_database(), [Events()]), messages(50)
    feed(store, log.entries, log.ends)
    done = threading.Event()
    looks = 0

    def replace() -> None:
        try:
            for _ in range(15):
                replaced(store, log)
        finally:
            done.set()

    def look() -> None:
        nonlocal looks
        reader = Store(store.url, [Events()])
        while not done.is_set():
            assert len(rows(reader, "events")["events"]) == 50
            looks += 1
        reader.close()

    together(replace, look, look)
    assert looks > 15
    assert store.live("events") == (16, log.ends)


class Crossing(Components):
    """Has locked what another transaction waits for, and then wants what that one has locked."""

    tries = 0

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Count; the first time only after the other waits for us."""
        super().apply(connection, tables, batch)
        self.tries += 1
        until(
            lambda: (
                self.tries > 1 or connection.scalar(text("select count(*) from pg_locks where not granted"))
            )
        )
        connection.execute(text("select pg_advisory_xact_lock(7)"))


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.01)


def test_a_deadlock_is_tried_again(postgres: Cluster) -> None:
    """A transaction that the server ends because of a deadlock is done again, and counts once."""
    view, log = Crossing(), signals(5)
    store = store_at(postgres.new_schema(), [view])
    schema = store.url.query["options"]

    def other() -> None:
        with postgres.admin(USER) as connection:
            connection.execute(str(schema).replace("-c", "SET ").replace("=", " = "))
            connection.execute("SET deadlock_timeout = '30s'")  # who notices first is ended: not this one
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(7)")
                locked.set()
                until(lambda: view.tries)
                connection.execute("UPDATE view_generations SET state = state")

    locked = threading.Event()

    def write() -> None:
        assert locked.wait(10)
        feed(store, log.entries, log.ends)

    together(other, write)
    assert view.tries > 1
    assert sum(row[4] for row in rows(store, "components")["components"]) == 5


def test_a_serialization_failure_is_tried_again(postgres: Cluster) -> None:
    """A transaction that the server cannot put in order with another one is done again."""
    store = store_at(postgres.new_schema(), [Events()])
    both_read = threading.Barrier(2)
    tries: list[int] = []

    def add(connection: Connection) -> None:
        connection.execute(text("set transaction isolation level repeatable read"))
        before = connection.scalar(text("select max(hold_until) from view_generations"))
        tries.append(1)
        if len(tries) <= 2:
            both_read.wait(10)
        connection.execute(text("update view_generations set hold_until = :x"), {"x": before + 1})

    together(lambda: store._change(add), lambda: store._change(add))
    with store._reader.begin() as connection:
        assert connection.scalar(text("select max(hold_until) from view_generations")) == 2
    assert len(tries) == 3


SCRIPT = """
import os, signal, sys
from projections import database
from projections.components import Components
from tests.projections.material import store_at
from tests.projections.test_writers import PLACE, signals
database._WRITER["idle_in_transaction_session_timeout"] = "1s"
class Held(Components):
    def apply(self, connection, tables, batch):
        super().apply(connection, tables, batch)
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
store, log = store_at(sys.argv[1], [Held()]), signals(10)
store.apply("components", 1, log.entries, {PLACE: None}, {PLACE: log.ends[PLACE]})
"""


@contextmanager
def writer_that_stops(url: str, how: str) -> Iterator[subprocess.Popen[str]]:
    """A process that gets a signal in the middle of its transaction, its locks held."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, url, how],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_writer_holds_nothing(new_database: NewDatabase) -> None:
    """What a writer killed in the middle of its transaction had locked, his successor gets at once."""
    url, log = new_database(), signals(10)
    with writer_that_stops(url, "SIGKILL") as process:
        process.wait(30)
    began = time.monotonic()
    store = Store(url, [Components()])
    store.apply("components", 1, log.entries, {PLACE: None}, log.ends)
    assert time.monotonic() - began < 3
    assert sum(row[4] for row in rows(store, "components")["components"]) == 10


def test_a_stopped_writer_is_cut_off(postgres: Cluster) -> None:
    """A writer that stands still with its locks is cut off by the server; woken up, it has changed nothing."""
    url, log = postgres.new_schema(), signals(10)
    with writer_that_stops(url, "SIGSTOP") as process:
        store = Store(url, [Components()])
        began = time.monotonic()
        store.apply("components", 1, log.entries, {PLACE: None}, log.ends)
        assert time.monotonic() - began < 10
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "terminating connection due to idle-in-transaction timeout" in said or "closed" in said
    assert sum(row[4] for row in rows(store, "components")["components"]) == 10
