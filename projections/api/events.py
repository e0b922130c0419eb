"""GET /v1/events: every raw and derived event, by what it is known by."""

from typing import Annotated, Any, Literal, Self

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field, model_validator
from sqlalchemy import ColumnElement, Row, func, select

from projections.access import Caller
from projections.api.door import PROBLEMS, Door, Moment, Page, Period, Text, moment, within
from projections.paging import page
from projections.store import Reading

_MOST = 2**63 - 1
_SELECTIVE = ("partition", "correlation_id", "key", "type", "topic", "producer_key")


class EventItem(BaseModel):
    """An event: its envelope, its place in the log and its fields."""

    id: str
    source: str
    type: str
    time: Moment
    project: str
    topic: str
    partition: int
    offset: int
    key: str
    subject: str | None
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    clock: str
    producer_key: Annotated[
        str | None,
        Field(
            description="Id of the API key it came in with; null: not over HTTP. `admin`: the administrator's."
        ),
    ]
    data: Annotated[dict[str, Any], Field(description="The event's own fields; bytes are base64.")]


class EventsQuestion(Period):
    """Filters of events. With `partition` the order is by offset, else by time."""

    topic: Text | None = None
    type: Text | None = None
    key: Annotated[str | None, Field(max_length=512, description="The record's key, without project.")] = None
    correlation_id: Text | None = None
    producer_key: Annotated[
        Text | None,
        Field(description="Id of an API key. No index serves it: give `since` or another filter."),
    ] = None
    partition: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="Of `topic`.")] = None
    offset: Annotated[
        int | None, Field(ge=0, le=_MOST, description="First offset to be given, of `partition`.")
    ] = None
    order: Annotated[
        Literal["oldest", "newest"], Field(description="Which come first; by offset always the oldest.")
    ] = "oldest"

    @model_validator(mode="after")
    def _whole_position(self) -> Self:
        if self.partition is not None and self.topic is None:
            raise ValueError("partition needs a topic")
        if self.offset is not None and self.partition is None:
            raise ValueError("offset needs a topic and a partition")
        return self


def events_page(reading: Reading, project: str, question: EventsQuestion) -> Page[EventItem]:
    """One page of events; its position is filled in by the route."""
    c = reading.tables["events"]["events"].c
    statement = select(reading.tables["events"]["events"]).where(
        c.project == project,
        *_filters(c, question),
        *within(c.time, question),
    )
    by_offset = question.partition is not None
    if question.offset is not None:
        statement = statement.where(c.offset >= question.offset)
    rows, following = page(
        reading.connection,
        statement,
        [c.offset] if by_offset else [c.time, c.topic, c.partition, c.offset],
        question=["events", project, question.filters()],
        limit=question.limit,
        cursor=question.cursor,
        descending=question.order == "newest" and not by_offset,
    )
    return Page(items=[event_item(row) for row in rows], next=following, position="")


def _filters(c: Any, question: EventsQuestion) -> list[ColumnElement[bool]]:
    """Only the filter that leaves the fewest events may choose the index: SQLite cannot know which it is."""
    given = [name for name in _SELECTIVE if getattr(question, name) is not None]
    leading = ("partition", "topic") if question.partition is not None else given[:1]
    return [
        (c[name] if name in leading else func.coalesce(c[name], c[name])) == getattr(question, name)
        for name in given
    ]


def event_item(row: Row[Any]) -> EventItem:
    """A row of the view as it is answered."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return EventItem(**values | {"time": moment(row.time), "data": orjson.loads(row.data)})


def routes(door: Door) -> APIRouter:
    """The routes of events."""
    router = APIRouter(tags=["events"])

    @router.get("/v1/events", responses=PROBLEMS)
    async def list_events(
        question: Annotated[EventsQuestion, Query()], caller: Annotated[Caller, Depends(door.caller)]
    ) -> Page[EventItem]:
        """Events of a project, a page at a time."""
        found, position = await door.answer(
            caller, question, ["events"], lambda reading, project: events_page(reading, project, question)
        )
        return found.model_copy(update={"position": position})

    return router
