"""The records of a cut that no whole bucket holds, as what they add to each key of a view."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import MetaData, and_, or_, select

from projections import database
from projections.generations import NAMING
from projections.history import History, Key
from projections.store import Reading
from projections.view import Entry, Place, Tables, View

_KEY_BYTES, _PART_BYTES = 200, 60
"""What an object of Python's takes beside its text: a key with its place in a dict, each part of it."""
SCRATCH = database.scratch()
"""Each connection is a database of its own, gone when it is closed."""


@dataclass(frozen=True)
class Tail:
    """By table and key, in the form of a history; `ordered` are the values of its order by project.

    `size` is about what it takes in bytes.
    """

    size: int
    kept: Mapping[str, Mapping[Key, bytes]]
    ordered: Mapping[str, Sequence[tuple[float, str]]]

    def before(
        self, project: str, above: Key | None, begin: float, end: float, most: int
    ) -> list[tuple[float, str]]:
        """Up to `most` (value of the order, id), the largest first: below `above`, from `begin` up to before `end`."""
        known = self.ordered.get(project, ())
        high = bisect_left(known, (end,))
        if above is not None:
            high = min(high, bisect_left(known, tuple(above)))
        low = bisect_left(known, (begin,))
        return list(reversed(known[max(low, high - most) : high]))


NOTHING = Tail(0, {}, {})


def remembers(view: View) -> bool:
    """Whether the view keeps a history."""
    return "uncounted" in scratch(view)[1]


@lru_cache(maxsize=64)
def scratch(view: View) -> tuple[MetaData, Tables]:
    """A view's tables to be filled apart from the others: without histories. Made once, as SQL is kept by them."""
    metadata = MetaData(naming_convention=NAMING)
    tables = view.tables(metadata, "")
    for table in tables.values():
        table.info.pop("history", None)
    return metadata, tables


def counted(
    live: Reading, view: View, entries: Sequence[Entry], ranges: Mapping[Place, tuple[int, int]]
) -> list[Entry]:
    """Those that the view counted."""
    c = live.tables[view.name]["uncounted"].c
    here = [
        and_(c.topic == topic, c.partition == partition, c.offset >= begin, c.offset < end)
        for (topic, partition), (begin, end) in ranges.items()
    ]
    rows = live.connection.execute(select(c.topic, c.partition, c.offset).where(or_(*here))) if here else ()
    out = {tuple(row) for row in rows}
    return [x for x in entries if (x.topic, x.partition, x.offset) not in out]


def tail_of(view: View, live: Tables, entries: Sequence[Entry]) -> Tail:
    """Apply entries to empty tables in memory and keep what comes of them. `live` are the view's tables."""
    metadata, tables = scratch(view)
    kept: dict[str, dict[Key, bytes]] = {}
    ordered: dict[str, list[tuple[float, str]]] = {}
    with SCRATCH.connect() as connection:
        metadata.create_all(connection, checkfirst=False)
        view.apply(connection, tables, entries)
        for name, table in tables.items():
            history: History | None = live[name].info.get("history")
            if history is None:
                continue
            width = len(table.primary_key)
            rows = {tuple(row)[:width]: row._asdict() for row in connection.execute(select(table))}
            kept[name] = {key: history.packed(group) for key, group in history.grouped(rows).items()}
            if history.order:
                for (project, id_), row in rows.items():
                    if row[history.order] is not None:
                        ordered.setdefault(project, []).append((row[history.order], id_))
    for pairs in ordered.values():
        pairs.sort()
    size = sum(
        _KEY_BYTES
        + _PART_BYTES * len(key)
        + sum(len(part) for part in key if isinstance(part, str))
        + len(data)
        for of_table in kept.values()
        for key, data in of_table.items()
    )
    size += sum(_KEY_BYTES + _PART_BYTES + len(id_) for pairs in ordered.values() for _, id_ in pairs)
    return Tail(size, kept, ordered)
