"""The rows of a view at a cut, made key by key, in tables in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Table, func, select, tuple_

from projections.columns import without_nul
from projections.history import History, Key, whole_buckets
from projections.merging import complete, merged, put
from projections.past.cut import Cut
from projections.past.tail import NOTHING, SCRATCH, Tail, scratch
from projections.store import Reading
from projections.view import Place, View
from projections.writing import Row

MOST = 2_000
"""Rows that are made of what one question of a key shows beside its own row, such as a component's signals."""
Rows = dict[str, dict[Key, Row]]
"""By table and key."""


@dataclass(frozen=True)
class State:
    """A view at a cut. `live` is what there is now, `reading` the rows at the cut that were shown so far."""

    view: View
    live: Reading
    reading: Reading
    cut: Cut
    tail: Tail = NOTHING
    below: Mapping[Place, int] = field(default_factory=dict)
    """The buckets of a place that lie before the cut are smaller than this."""
    _made: dict[str, dict[Key, dict[Key, Row]]] = field(default_factory=dict)

    def take(self, keys: Iterable[Key], tables: Collection[str] | None = None) -> None:
        """Show what there was of these keys, (project, id), in these tables, or all."""
        self.show(self.rows(list(keys), tables).values())

    def of(self, project: str, id_: str) -> Reading:
        """Show one key; what the view's query of one reads."""
        self.take([(project, without_nul(id_))])
        return self.reading

    def rows(self, keys: Collection[Key], tables: Collection[str] | None = None) -> dict[Key, Rows]:
        """What there was of each key, in those tables whose keys begin with it; each is made once."""
        found: dict[Key, Rows] = {key: {} for key in keys}
        for name, table in self.live.tables[self.view.name].items():
            if "history" not in table.info or len(table.primary_key) == 1:
                continue
            if tables is not None and name not in tables:
                continue
            made = self._made.setdefault(name, {})
            if missing := [key for key in keys if key not in made]:
                made.update({key: {} for key in missing})
                for key, row in self.of_table(name, missing).items():
                    made[key[:2]][key] = row
            for key in keys:
                if made[key]:
                    found[key][name] = made[key]
        return found

    def of_table(self, name: str, keys: Collection[Key]) -> dict[Key, Row]:
        """The rows of one table whose keys begin with one of these."""
        table = self.live.tables[self.view.name][name]
        history: History = table.info["history"]
        whole = self._whole(table, history, keys)
        below = {(*key, *place): end for place, end in self.below.items() for key in whole}
        changes: dict[Key, list[Row]] = {}
        for key, data in history.latest(self.live.connection, below).items():
            for full, row in history.unpacked(key[:-2], data):
                changes.setdefault(full, []).append(row)
        for key in whole:
            for full, row in history.unpacked(key, self.tail.kept.get(name, {}).get(key)):
                changes.setdefault(full, []).append(row)
        return {key: merged(table, rows) for key, rows in changes.items()}

    def _whole(self, table: Table, history: History, keys: Collection[Key]) -> list[Key]:
        """The history's keys that begin with these; the live table has every one that there ever was.

        Of more than MOST those that were last seen, by now.
        """
        given = len(next(iter(keys), ()))
        if given in (0, len(history.keys)):
            return list(keys)
        c = [table.c[name] for name in history.keys]
        some = select(*c).where(tuple_(*c[:given]).in_(keys)).group_by(*c).limit(MOST)
        if "stamp" in table.c:
            some = some.order_by(func.max(table.c.stamp).desc(), *c)
        return [tuple(row) for row in self.live.connection.execute(some)]

    def show(self, rows: Iterable[Rows]) -> None:
        """Put rows where the view's queries look for them."""
        shown: Rows = {}
        for of_key in rows:
            for name, some in of_key.items():
                shown.setdefault(name, {}).update(some)
        for name, of_table in shown.items():
            table = self.reading.tables[self.view.name][name]
            put(self.reading.connection, table, complete(table, of_table))


@contextmanager
def state_at(
    view: View, live: Reading, cut: Cut, tail: Tail, standing: Mapping[Place, int]
) -> Iterator[State]:
    """The view's state at a cut; valid inside, and as long as `live` is."""
    metadata, tables = scratch(view)
    topics = {topic.name for topic in view.topics}
    below = {p: n for p, offset in cut.items() if p[0] in topics and (n := whole_buckets(offset))}
    below |= {place: whole_buckets(offset - 1) + 1 for place, offset in standing.items()}
    with SCRATCH.connect() as connection:
        metadata.create_all(connection, checkfirst=False)
        reading = Reading(connection, {view.name: tables}, {view.name: dict(cut)})
        yield State(view, live, reading, cut, tail, below)
