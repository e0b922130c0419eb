"""Applying a batch in which an entry may break the view: it is found by halving and left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from projections.trouble import sqlstate
from projections.view import Entry, Tables, View

_LAID_TO_ENTRIES = (DataError, IntegrityError, ProgrammingError)
_STATES_LAID_TO_ENTRIES = ("21", "22", "23", "54")
"""PostgreSQL's classes: cardinality, data, integrity, and limits such as an index entry's size."""


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
        if not _can_be_laid_to_an_entry(error):
            raise
        if len(batch) == 1:
            return [Refused(batch[0], error)]
        middle = len(batch) // 2
        return [
            *apply_surviving(connection, view, tables, batch[:middle]),
            *apply_surviving(connection, view, tables, batch[middle:]),
        ]
    return []


def _can_be_laid_to_an_entry(error: Exception) -> bool:
    """Whether a value can cause it; the rest is the database's own trouble."""
    if not isinstance(error, DBAPIError):
        return True
    state = sqlstate(error)  # PostgreSQL calls a table that is gone a programming error, too
    return isinstance(error, _LAID_TO_ENTRIES) if state is None else state[:2] in _STATES_LAID_TO_ENTRIES
