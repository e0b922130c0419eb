"""GET /v1/views/{view}: rows of views that packages add. Ours have answers of their own."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi import Path as InPath
from pydantic import Field, RootModel
from sqlalchemy import Column, ColumnElement, Double, Row, Table, Text, select

from projections.access import Caller
from projections.api.door import PROBLEMS_OF_ONE, Door, Page, PageQuestion
from projections.api.door import Text as Given
from projections.columns import INTEGER, TEXT
from projections.paging import NotFound, page
from projections.recorded import base64_text
from projections.store import Reading
from schemas.errors import InvalidEvent

_TEXTS = (type(TEXT), Text)
_ORDERED = (*_TEXTS, type(INTEGER), Double)


class BadFilter(InvalidEvent):
    """A filter names no column of the table, or a value that the column cannot have."""


class RowItem(RootModel[dict[str, Any]]):
    """A row: its columns and their values; bytes are base64."""


class RowsQuestion(PageQuestion):
    """Which rows of which table."""

    table: Annotated[
        Given | None, Field(description="One of the view's tables, by the name it has there; else the first.")
    ] = None
    where: Annotated[
        tuple[Given, ...], Field(max_length=10, description="`column=value`; all have to hold.")
    ] = ()


def rows_page(reading: Reading, view: str, project: str, question: RowsQuestion) -> Page[RowItem]:
    """One page of rows, by primary key; its position is filled in by the route. Raises NotFound, BadFilter."""
    table = _table(reading, view, question.table)
    rows, following = page(
        reading.connection,
        select(table).where(
            table.c.project == project, *(_condition(table, text) for text in question.where)
        ),
        list(table.primary_key),
        question=[view, table.name, project, question.filters()],
        limit=question.limit,
        cursor=question.cursor,
    )
    return Page(items=[_item(row) for row in rows], next=following, position="")


def _table(reading: Reading, view: str, name: str | None) -> Table:
    tables = reading.tables[view]
    table = tables.get(next(iter(tables)) if name is None else name)
    if table is None:
        raise NotFound(f"view {view} has no table {name!r}", hint=f"one of {', '.join(tables)}")
    keys = [column.type for column in table.primary_key]
    if "project" not in table.c or not keys or not all(isinstance(kind, _ORDERED) for kind in keys):
        raise NotFound(
            f"this table of view {view} is not shown: it needs a column project, and a primary key of TEXT, "
            "INTEGER and FLOAT",
            hint="rows belong to the project of the events that they are made of",
        )
    return table


def _condition(table: Table, text: str) -> ColumnElement[bool]:
    name, equals, value = text.partition("=")
    column = table.c.get(name)
    if not equals or column is None:
        raise BadFilter(f"where={text}: expected column=value", hint=f"columns: {', '.join(table.c.keys())}")
    try:
        holds: ColumnElement[bool] = column == _value(column, value)
    except ValueError as error:
        raise BadFilter(f"where={text}: {error}", hint=f"{name} holds {column.type}") from error
    return holds


def _value(column: Column[Any], text: str) -> Any:
    """What a column is compared with. Raises ValueError."""
    if column.type is INTEGER:
        value = int(text)
        if not -(2**63) <= value < 2**63:
            raise ValueError("larger than 64 bits")
        return value
    if isinstance(column.type, Double):
        return float(text)
    if isinstance(column.type, _TEXTS):
        return text
    raise ValueError("it cannot be compared here")


def _item(row: Row[Any]) -> RowItem:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return RowItem({k: base64_text(v) if isinstance(v, bytes) else v for k, v in values.items()})


def routes(door: Door, own: set[str]) -> APIRouter:
    """The routes; `own` names the views that packages add."""
    router = APIRouter(tags=["own views"])

    @router.get("/v1/views/{view}", responses=PROBLEMS_OF_ONE)
    async def list_rows(
        view: Annotated[str, InPath(description="A view of an installed package.")],
        question: Annotated[RowsQuestion, Query()],
        caller: Annotated[Caller, Depends(door.caller)],
    ) -> Page[RowItem]:
        """Rows of a package's view, a page at a time."""
        if view not in own:
            hint = f"one of {', '.join(sorted(own))}" if own else "install a package that adds one"
            raise NotFound(f"no package adds a view {view!r}", hint=hint)
        found, position = await door.answer(
            caller, question, [view], lambda reading, project: rows_page(reading, view, project, question)
        )
        return found.model_copy(update={"position": position})

    return router
