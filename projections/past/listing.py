"""Pages of a list at a cut: keys are looked at in the list's order until the page is full, or enough were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Column, ColumnElement, select

from projections.paging import cursor_at, start_of
from projections.past.state import State

MOST = 2_000
"""Rows that one request looks at; where that does not fill the page, `next` goes on behind them."""


class Paged(Protocol):
    """A page of a list."""

    next: str | None


P = TypeVar("P", bound=Paged)


@dataclass(frozen=True)
class Looked:
    """How many rows were looked at, and the last one's order; None: there are no more."""

    rows: int
    last: Sequence[Any] | None


Find = Callable[[Sequence[Any] | None, int], Looked]
"""(order of the row to go on behind, most rows to look at): shows what there was of the keys that follow."""


def listed(
    find: Find,
    page: Callable[[], P],
    *,
    question: object,
    keys: Sequence[Column[Any]],
    limit: int,
    cursor: str | None,
) -> P:
    """The page that `page` makes of what is shown, once `find` has shown enough. See `projections.paging.page`."""
    behind: Sequence[Any] | None = start_of(cursor, question, keys)
    rows, more = 0, limit + 1
    while True:
        looked = find(behind, more)
        found, rows = page(), rows + looked.rows
        if found.next is not None or looked.last is None:
            return found
        if rows >= MOST:
            found.next = cursor_at(question, looked.last)
            return found
        behind, more = looked.last, min(2 * more, MOST - rows)


def by_id(
    state: State, project: str, id_: Column[Any], *conditions: ColumnElement[bool], tables: Sequence[str]
) -> Find:
    """For a list in the order of ids, which shows these tables: the live one has every id that there ever was."""

    def find(behind: Sequence[Any] | None, most: int) -> Looked:
        statement = select(id_).where(id_.table.c.project == project, *conditions)
        if behind is not None:
            statement = statement.where(id_ > behind[0])
        ids = state.live.connection.execute(statement.order_by(id_).limit(most)).scalars().all()
        state.take([(project, x) for x in ids], tables)
        return Looked(len(ids), ids[-1:] if len(ids) == most else None)

    return find
