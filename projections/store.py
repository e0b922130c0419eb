"""Views in SQL: rows and offsets change in one transaction, and are read in one.

SQLite in WAL mode has one writer at a time; on PostgreSQL whoever writes a view locks its generation's
row first. Readers have a snapshot: they see one moment, whoever writes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import URL, Connection, select, text
from sqlalchemy.exc import DBAPIError

from projections import database, trouble
from projections import generations as g
from projections.generations import (  # they are raised here
    Layouts,
    ViewHeld,
    ViewMoved,
    ViewNotReady,
)
from projections.merging import put
from projections.once import InLog, leave_out
from projections.surviving import Refused, apply_surviving
from projections.view import Entry, Offsets, Place, Tables, View

T = TypeVar("T")
ATTEMPTS = 5
"""So often a transaction is tried that another one got into the way of."""


@dataclass(frozen=True)
class Reading:
    """Tables and offsets of one moment; valid inside `Store.read`."""

    connection: Connection
    tables: dict[str, Tables]
    offsets: dict[str, dict[Place, int]]


class Store:
    """The views' database. Methods block: call them from a thread where there is an event loop.

    Raises ConfigurationError for a URL of another kind of database, or without its driver. Methods
    raise the database's own errors (SQLAlchemy's) beside those they name; see `projections.trouble`.
    """

    def __init__(self, url: str | URL, views: Iterable[View]) -> None:
        self.url = database.database_url(url)
        self.views = {view.name: view for view in views}
        self._layouts = Layouts()
        # A view has one writer; a rebuild may begin beside it.
        self._writer = database.writer(self.url, len(self.views) + 1)
        self._reader = database.reader(self.url)

    def prepare(self, *, replace: bool = True) -> None:
        """Make what tables are missing; a view of another version starts anew, from the log's start.

        Without `replace` such a view is let be: another process may have it.
        """
        self._change(g.METADATA.create_all, structure=True)
        for view in self.views.values():
            self._change(partial(self._prepare, view, replace), structure=True)

    def _prepare(self, view: View, replace: bool, connection: Connection) -> None:
        g.drop_in_state(connection, self._layouts, view, g.RETIRED)
        live = g.live_generation(connection, view)
        if live is not None and (live.version == view.version or not replace):
            return
        g.new_generation(connection, self._layouts, view, g.LIVE)
        if live is not None:  # only now: its number must not be given to another layout
            self._layouts.drop(connection, view, live.generation)

    def live(self, name: str) -> tuple[int, dict[Place, int]]:
        """The live generation of a view and its offsets. Raises ViewNotReady."""
        with self._reader.begin() as connection:
            generation = self._generation(connection, self.views[name])
            return generation, g.stored_offsets(connection, name, generation)

    def apply(
        self,
        name: str,
        generation: int,
        batch: Sequence[Entry],
        start: Mapping[Place, int | None],
        end: Offsets,
        undecodable: Sequence[InLog] = (),
    ) -> list[Refused]:
        """Bring a view's generation from the offsets `start` to `end`: all of it, or nothing.

        `start` has None for a place that was not read before; what was `undecodable` is not among the batch.
        Returns the entries that the view could not take; they are left out. Raises ViewMoved, ViewHeld, or
        the database's own error: nothing has changed then.
        """
        view = self.views[name]

        def apply(connection: Connection) -> list[Refused]:
            try:
                g.claim(connection, view, generation)
            except DBAPIError as error:
                if not trouble.lacks_table(error):
                    raise
                raise ViewMoved(f"the tables of view {name} are gone", hint="make them anew") from error
            stored = g.stored_offsets(connection, name, generation)
            for place, offset in start.items():
                if stored.get(place) != offset:
                    raise ViewMoved(
                        f"view {name} stands at {stored.get(place)} of {place}, its writer at {offset}",
                        hint="let one process write the views of a database",
                    )
            tables = self._layouts.of(view, generation)
            refused = apply_surviving(connection, view, tables, batch)
            leave_out(connection, tables.get("uncounted"), [*(x.entry for x in refused), *undecodable])
            put(
                connection,
                g.OFFSETS,
                [
                    {"view": name, "generation": generation, "topic": t, "partition": p, "next_offset": o}
                    for (t, p), o in sorted(end.items())
                ],
            )
            return refused

        return self._change(apply)

    @contextmanager
    def read(self, *names: str) -> Iterator[Reading]:
        """Tables and offsets of views, in one transaction. Raises ViewNotReady."""
        attempts = ATTEMPTS
        while True:
            with self._reader.begin() as connection:
                try:
                    reading = self._reading(connection, names)
                except DBAPIError as error:
                    attempts -= 1
                    if attempts and (trouble.lacks_table(error) or trouble.is_conflict(error)):
                        continue  # a rebuild has just replaced what we had looked up
                    raise
                yield reading
                return

    def _reading(self, connection: Connection, names: Sequence[str]) -> Reading:
        reading = Reading(connection, {}, {})
        for name in names:
            view = self.views[name]
            generation = self._generation(connection, view)
            reading.tables[name] = self._layouts.of(view, generation)
            read = {topic.name for topic in view.topics}
            # Of topics that a package had which is gone, nobody can say what an offset is worth.
            stored = g.stored_offsets(connection, name, generation)
            reading.offsets[name] = {place: offset for place, offset in stored.items() if place[0] in read}
        if connection.dialect.name == "postgresql":
            # A snapshot keeps rows, but no tables: these it keeps only with a lock, which hinders no writer.
            tables = [f'"{t.name}"' for tables in reading.tables.values() for t in tables.values()]
            connection.execute(text(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE"))
        return reading

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

        def begin(connection: Connection) -> int:
            g.METADATA.create_all(connection)
            return g.new_generation(connection, self._layouts, self.views[name], g.BUILDING)

        return self._change(begin, structure=True)

    def hold(self, name: str, seconds: float) -> None:
        """Let the live generation wait for its rebuild, at most so long; 0 lets it go on."""
        self._change(lambda connection: g.hold(connection, self.views[name], seconds))

    def swap(self, name: str, generation: int, ends: Offsets) -> bool:
        """Make a built generation live, unless it lags behind the live one. Raises ViewMoved.

        `ends` are the ends of the log: a live view that claims more has read another log.
        """

        def swap(connection: Connection) -> bool:
            g.claim(connection, self.views[name], generation)
            return g.swap(connection, self.views[name], generation, ends)

        return self._change(swap, structure=True)

    def drop_build(self, name: str, generation: int) -> None:
        """Give up a rebuild."""
        self._change(lambda c: self._layouts.drop(c, self.views[name], generation), structure=True)

    def drop_retired(self, name: str) -> None:
        """Drop what a rebuild replaced."""
        self._change(lambda c: g.drop_in_state(c, self._layouts, self.views[name], g.RETIRED), structure=True)

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()

    def _change(self, work: Callable[[Connection], T], *, structure: bool = False) -> T:
        """Do `work` in one transaction, again where another one got into its way.

        `structure`: it changes which tables there are, and is alone in that.
        """
        attempts = ATTEMPTS
        while True:
            try:
                with self._writer.begin() as connection:
                    if structure:
                        database.alone(connection)
                    return work(connection)
            except DBAPIError as error:
                attempts -= 1
                if not attempts or not trouble.is_conflict(error):
                    raise
            time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - no secret: both parties should not meet again

    def _generation(self, connection: Connection, view: View) -> int:
        try:
            row = g.live_generation(connection, view)
        except DBAPIError as error:
            if not trouble.lacks_table(error):
                raise
            row = None
        if row is None or row.version != view.version:
            raise ViewNotReady(
                f"view {view.name} is not made yet", hint="start the views process: `headwater views`"
            )
        return int(row.generation)


__all__ = ["Reading", "Store", "ViewHeld", "ViewMoved", "ViewNotReady"]
