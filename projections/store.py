"""Views in SQL: rows and offsets change in one transaction, and are read in one.

SQLite in WAL mode has one writer at a time: the writing engine has one connection, whose checkout
is the queue. Readers have a snapshot of their own. On PostgreSQL the same holds by row locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from projections import generations as g
from projections.generations import (  # they are raised here
    Layouts,
    ViewHeld,
    ViewMoved,
    ViewNotReady,
)
from projections.merging import put
from projections.surviving import Refused, apply_surviving
from projections.view import Entry, Offsets, Place, Tables, View

_BUSY_S = 60
_WRITER_PRAGMAS = (
    "journal_mode=WAL",
    # Against power loss this may lose the last transactions, rows and offsets together: they are read again.
    "synchronous=NORMAL",
    "temp_store=MEMORY",
    "cache_size=-32768",
    "wal_autocheckpoint=4000",
    "journal_size_limit=67108864",
)


@dataclass(frozen=True)
class Reading:
    """Tables and offsets of one moment; valid inside `Store.read`."""

    connection: Connection
    tables: dict[str, Tables]
    offsets: dict[str, dict[Place, int]]


class Store:
    """The views' database. Methods block: call them from a thread where there is an event loop."""

    def __init__(self, url: str | URL, views: Iterable[View]) -> None:
        self.url = make_url(url)
        self.views = {view.name: view for view in views}
        self._layouts = Layouts()
        if self.url.get_backend_name() == "sqlite":
            assert self.url.database, "the views need a file"
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self._writer = _sqlite(self.url, _WRITER_PRAGMAS, "BEGIN IMMEDIATE", 1)
            self._reader = _sqlite(self.url, ("query_only=ON",), "BEGIN", 8)
        else:
            self._writer = create_engine(self.url, pool_size=8, pool_pre_ping=True)
            self._reader = create_engine(
                self.url, pool_size=8, pool_pre_ping=True, isolation_level="REPEATABLE READ"
            )

    def prepare(self) -> None:
        """Make what tables are missing; a view of another version starts anew, from the log's start."""
        with self._writer.begin() as connection:
            g.METADATA.create_all(connection)
        for view in self.views.values():
            with self._writer.begin() as connection:
                g.drop_in_state(connection, self._layouts, view, g.RETIRED)
                live = g.live_generation(connection, view)
                if live is not None and live.version == view.version:
                    continue
                g.new_generation(connection, self._layouts, view, g.LIVE)
                if live is not None:  # only now: its number must not be given to another layout
                    self._layouts.drop(connection, view, live.generation)

    def live(self, name: str) -> tuple[int, dict[Place, int]]:
        """The live generation of a view and its offsets. Raises ViewNotReady."""
        with self._reader.begin() as connection:
            generation = self._generation(connection, self.views[name])
            return generation, g.stored_offsets(connection, name, generation)

    def apply(
        self, name: str, generation: int, batch: Sequence[Entry], start: Offsets, end: Offsets
    ) -> list[Refused]:
        """Bring a view's generation from the offsets `start` to `end`: all of it, or nothing.

        Returns the entries that the view could not take; they are left out. Raises ViewMoved,
        ViewHeld, or the database's own error: nothing has changed then.
        """
        view = self.views[name]
        with self._writer.begin() as connection:
            g.claim(connection, view, generation)
            stored = g.stored_offsets(connection, name, generation)
            for place, offset in start.items():
                if stored.get(place, offset) != offset:
                    raise ViewMoved(
                        f"view {name} stands at {stored[place]} of {place}, its writer at {offset}",
                        hint="let one process write the views of a database",
                    )
            refused = apply_surviving(connection, view, self._layouts.of(view, generation), batch)
            put(
                connection,
                g.OFFSETS,
                [
                    {"view": name, "generation": generation, "topic": t, "partition": p, "next_offset": o}
                    for (t, p), o in sorted(end.items())
                ],
            )
        return refused

    @contextmanager
    def read(self, *names: str) -> Iterator[Reading]:
        """Tables and offsets of views, in one transaction. Raises ViewNotReady."""
        with self._reader.begin() as connection:
            reading = Reading(connection, {}, {})
            for name in names:
                view = self.views[name]
                generation = self._generation(connection, view)
                reading.tables[name] = self._layouts.of(view, generation)
                reading.offsets[name] = g.stored_offsets(connection, name, generation)
            yield reading

    def states(self, name: str) -> list[tuple[int, int, str]]:
        """(generation, version, live | building | retired) of a view, by generation; raises ViewNotReady."""
        with self._reader.begin() as connection:
            self._generation(connection, self.views[name])
            c = g.GENERATIONS.c
            rows = connection.execute(
                select(c.generation, c.version, c.state).where(c.view == name).order_by(c.generation)
            )
            return [(generation, version, state) for generation, version, state in rows]

    def begin_build(self, name: str) -> int:
        """Make an empty generation to rebuild the view into; returns its number."""
        with self._writer.begin() as connection:
            g.METADATA.create_all(connection)
            return g.new_generation(connection, self._layouts, self.views[name], g.BUILDING)

    def hold(self, name: str, seconds: float) -> None:
        """Let the live generation wait for its rebuild, at most so long; 0 lets it go on."""
        with self._writer.begin() as connection:
            g.hold(connection, self.views[name], seconds)

    def swap(self, name: str, generation: int, ends: Offsets) -> bool:
        """Make a built generation live, unless it lags behind the live one. Raises ViewMoved.

        `ends` are the ends of the log: a live view that claims more has read another log.
        """
        with self._writer.begin() as connection:
            g.claim(connection, self.views[name], generation)
            return g.swap(connection, self.views[name], generation, ends)

    def drop_build(self, name: str, generation: int) -> None:
        """Give up a rebuild."""
        with self._writer.begin() as connection:
            self._layouts.drop(connection, self.views[name], generation)

    def drop_retired(self, name: str) -> None:
        """Drop what a rebuild replaced."""
        with self._writer.begin() as connection:
            g.drop_in_state(connection, self._layouts, self.views[name], g.RETIRED)

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()

    def _generation(self, connection: Connection, view: View) -> int:
        try:
            row = g.live_generation(connection, view)
        except (OperationalError, ProgrammingError):
            with self._reader.connect() as other:
                if inspect(other).has_table(g.GENERATIONS.name):
                    raise
            row = None
        if row is None or row.version != view.version:
            raise ViewNotReady(
                f"view {view.name} is not made yet", hint="start the views process: `headwater views`"
            )
        return int(row.generation)


def _sqlite(url: URL, pragmas: Sequence[str], begin: str, connections: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=600,
        connect_args={"timeout": _BUSY_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin transactions only at the first change
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


__all__ = ["DBAPIError", "Reading", "Store", "ViewHeld", "ViewMoved", "ViewNotReady"]
