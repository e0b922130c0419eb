"""Generations of views: each rebuild makes tables of its own beside the live ones, then takes their place.

`view_generations` says which generation of a view is live; names of tables end in its number. The
swap is one UPDATE, so readers see the old view or the new one, never half of each, and whoever
writes finds out in his own transaction that he was replaced.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Row, Select, Table, delete, func, select, update

from projections.columns import FLOAT, INTEGER, TEXT
from projections.view import Offsets, Place, Tables, View
from schemas.errors import HeadwaterError

LIVE, BUILDING, RETIRED = "live", "building", "retired"
METADATA = MetaData()
GENERATIONS = Table(
    "view_generations",
    METADATA,
    Column("view", TEXT, primary_key=True),
    Column("generation", INTEGER, primary_key=True, autoincrement=False),
    Column("version", INTEGER, nullable=False),
    Column("state", TEXT, nullable=False),
    # Until then (seconds since 1970) the live generation waits for a rebuild that is about to overtake it.
    Column("hold_until", FLOAT, nullable=False, default=0.0),
)
OFFSETS = Table(
    "view_offsets",
    METADATA,
    Column("view", TEXT, primary_key=True),
    Column("generation", INTEGER, primary_key=True, autoincrement=False),
    Column("topic", TEXT, primary_key=True),
    Column("partition", INTEGER, primary_key=True, autoincrement=False),
    Column("next_offset", INTEGER, nullable=False),
)
NAMING = {"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"}


class ViewNotReady(HeadwaterError):
    """A view's tables are not made yet, or by another version of the code."""

    category = "TEMPORARY"


class ViewMoved(HeadwaterError):
    """The view stands elsewhere than its writer thought: it was rebuilt, or somebody else writes it too."""

    category = "TEMPORARY"


class ViewHeld(HeadwaterError):
    """A rebuild is about to overtake the live view, which waits for it."""

    category = "TEMPORARY"


@dataclass
class Layouts:
    """Table objects of each generation, made once: SQLAlchemy caches statements by them."""

    known: dict[tuple[str, int], tuple[MetaData, Tables]] = field(default_factory=dict)

    def of(self, view: View, generation: int) -> Tables:
        """The tables of a view's generation."""
        return self._layout(view, generation)[1]

    def create(self, connection: Connection, view: View, generation: int) -> None:
        """Make them in the database."""
        self._layout(view, generation)[0].create_all(connection)

    def drop(self, connection: Connection, view: View, generation: int) -> None:
        """Remove them and what is known of the generation."""
        # First the row that writers lock first: the other way round they and we would wait for each other.
        for table in (GENERATIONS, OFFSETS):
            connection.execute(
                delete(table).where(table.c.view == view.name, table.c.generation == generation)
            )
        self._layout(view, generation)[0].drop_all(connection)
        del self.known[view.name, generation]

    def _layout(self, view: View, generation: int) -> tuple[MetaData, Tables]:
        layout = self.known.get((view.name, generation))
        if layout is None:
            metadata = MetaData(naming_convention=NAMING)
            layout = metadata, view.tables(metadata, f"_{generation}")
            self.known[view.name, generation] = layout
        return layout


def live_generation(connection: Connection, view: View) -> Row[Any] | None:
    """The live generation's row, whatever its version."""
    return connection.execute(_rows(view).where(GENERATIONS.c.state == LIVE)).one_or_none()


def claim(connection: Connection, view: View, generation: int) -> Row[Any]:
    """Lock the generation for this transaction. Raises ViewMoved where it was replaced, or ViewHeld."""
    row = connection.execute(
        _rows(view).where(GENERATIONS.c.generation == generation).with_for_update()
    ).one_or_none()
    if row is None or row.state == RETIRED:
        raise ViewMoved(f"view {view.name} was replaced", hint="go on from the offsets of the new one")
    if row.state == LIVE and row.hold_until > time.time():
        raise ViewHeld(f"view {view.name} waits for its rebuild", hint="try again in a moment")
    return row


def stored_offsets(connection: Connection, view: str, generation: int) -> dict[Place, int]:
    """The next offset of each place that the generation has read."""
    o = OFFSETS.c
    rows = connection.execute(
        select(o.topic, o.partition, o.next_offset).where(o.view == view, o.generation == generation)
    )
    return {(topic, partition): offset for topic, partition, offset in rows}


def new_generation(connection: Connection, layouts: Layouts, view: View, state: str) -> int:
    """Make empty tables under the next number; a generation that was being built is dropped."""
    numbers = connection.execute(
        select(func.max(GENERATIONS.c.generation)).where(GENERATIONS.c.view == view.name)
    )
    generation = (numbers.scalar() or 0) + 1
    drop_in_state(connection, layouts, view, BUILDING)
    connection.execute(
        GENERATIONS.insert(),
        {"view": view.name, "generation": generation, "version": view.version, "state": state},
    )
    layouts.create(connection, view, generation)
    return generation


def drop_in_state(connection: Connection, layouts: Layouts, view: View, state: str) -> None:
    """Drop all generations of the view that are in that state."""
    for row in connection.execute(_rows(view).where(GENERATIONS.c.state == state)).all():
        layouts.drop(connection, view, row.generation)


def hold(connection: Connection, view: View, seconds: float) -> None:
    """Let the live generation wait, at most so long: a rebuild that dies must not stop it for good."""
    g = GENERATIONS.c
    connection.execute(
        update(GENERATIONS)
        .where(g.view == view.name, g.state == LIVE)
        .values(hold_until=time.time() + seconds)
    )


def swap(connection: Connection, view: View, generation: int, ends: Offsets) -> bool:
    """Make the generation live if it has read all that the live one has; False where it has not yet.

    What the live one read beyond `ends`, the log's ends of today, is no longer there to be read.
    """
    g = GENERATIONS.c
    live = connection.execute(_rows(view).where(g.state == LIVE).with_for_update()).one_or_none()
    if live is not None:
        wanted = reachable(stored_offsets(connection, view.name, live.generation), ends)
        behind = lacking(stored_offsets(connection, view.name, generation), wanted)
        if behind and live.version == view.version:
            return False
        connection.execute(
            update(GENERATIONS)
            .where(g.view == view.name, g.generation == live.generation)
            .values(state=RETIRED)
        )
    connection.execute(
        update(GENERATIONS).where(g.view == view.name, g.generation == generation).values(state=LIVE)
    )
    return True


def reachable(offsets: Offsets, ends: Offsets) -> dict[Place, int]:
    """Offsets cut at the log's ends."""
    return {place: min(offset, ends[place]) for place, offset in offsets.items() if place in ends}


def lacking(have: Offsets, wanted: Mapping[Place, int]) -> dict[Place, int]:
    """The places, with the offset wanted, where `have` is short of it."""
    return {place: offset for place, offset in wanted.items() if have.get(place, 0) < offset}


def _rows(view: View) -> Select[Any]:
    return select(GENERATIONS).where(GENERATIONS.c.view == view.name)
