"""Applying a batch in which an entry may break the view: it is found by halving and left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from projections.view import Entry, Tables, View

_LAID_TO_ENTRIES = (DataError, IntegrityError, ProgrammingError)
"""What of the database's errors a value can cause; the rest is the database's own trouble."""


@dataclass(frozen=True)
class Refused:
    """An entry that the view could not take, and why."""

    entry: Entry
    error: Exception


def apply_surviving(
    connection: Connection, view: View, tables: Tables, batch: Sequence[Entry]
) -> list[Refused]:
    """Apply all entries that can be applied, in order; returns the others.

    Raises the database's own trouble (lost connection, full disk, lock): no entry is to blame.
    """
    if not batch:
        return []
    try:
        with connection.begin_nested():
            view.apply(connection, tables, batch)
    except Exception as error:
        if isinstance(error, DBAPIError) and not isinstance(error, _LAID_TO_ENTRIES):
            raise
        if len(batch) == 1:
            return [Refused(batch[0], error)]
        middle = len(batch) // 2
        return [
            *apply_surviving(connection, view, tables, batch[:middle]),
            *apply_surviving(connection, view, tables, batch[middle:]),
        ]
    return []
