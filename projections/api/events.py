"""GET /v1/events: every raw and derived event, by what it is known by; in pages, or followed."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Literal, Self

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, model_validator
from sqlalchemy import ColumnElement, Row, case, false, func, select
from starlette.responses import Response

from projections.access import Caller
from projections.api.door import (
    PROBLEMS_OF_PAST,
    Door,
    Moment,
    Page,
    PastQuestion,
    Period,
    Text,
    moment,
    within,
)
from projections.columns import without_nul
from projections.events import Events, row_of
from projections.paging import page
from projections.past.cut import Cut
from projections.store import Reading
from projections.view import Entry

_MOST = 2**63 - 1
_SELECTIVE = ("partition", "correlation_id", "key", "type", "topic", "producer_key")
STREAM = "text/event-stream"
_OF_STREAMS = {"project", "topic", "type", "key", "correlation_id", "producer_key", "since", "last_event_id"}
_ANSWER: dict[str, Any] = {
    "description": "A page; or, with `Accept: text/event-stream`, each event as a message, without end.",
    "content": {
        STREAM: {
            "schema": {"type": "string"},
            "example": 'event: AnomalyDetected\ndata: {"id":"…","type":"AnomalyDetected",…}\nid: eyJhbm9t…\n\n',
        }
    },
}


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


class EventsQuestion(Period, PastQuestion):
    """Filters of events. With `partition` the order is by offset, else by time.

    A stream takes the filters from `topic` to `producer_key`, and begins where `last_event_id` or `since` says.
    `at` needs a `correlation_id` or a `partition`.
    """

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
    last_event_id: Annotated[
        str | None,
        Field(description="Of a stream: as the header `Last-Event-ID`, for clients that cannot set that."),
    ] = None

    @model_validator(mode="after")
    def _whole_position(self) -> Self:
        if self.partition is not None and self.topic is None:
            raise ValueError("partition needs a topic")
        if self.offset is not None and self.partition is None:
            raise ValueError("offset needs a topic and a partition")
        return self


Follow = Callable[[Request, Caller, EventsQuestion, str | None], Awaitable[Response]]
"""(request, caller, question, id of the last event that the client has): an answer in `text/event-stream`."""


def events_page(
    reading: Reading, project: str, question: EventsQuestion, cut: Cut | None = None
) -> Page[EventItem]:
    """One page of events, of those before the `cut` if there is one; its position is filled in by the route."""
    c = reading.tables["events"]["events"].c
    statement = select(reading.tables["events"]["events"]).where(
        c.project == project,
        *_filters(c, question),
        *within(c.time, question),
    )
    by_offset = question.partition is not None
    if question.offset is not None:
        statement = statement.where(c.offset >= question.offset)
    if cut is not None:
        statement = statement.where(_before(c, cut, question))
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


def _before(c: Any, cut: Cut, question: EventsQuestion) -> ColumnElement[bool]:
    offset: ColumnElement[int] = c.offset
    if question.partition is not None:
        return offset < cut.get((question.topic or "", question.partition), 0)
    # No index is to be chosen by it.
    ends = [((c.topic == topic) & (c.partition == partition), end) for (topic, partition), end in cut.items()]
    return offset < case((false(), 0), *ends, else_=0)


def event_item(row: Row[Any]) -> EventItem:
    """A row of the view as it is answered."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return EventItem(**values | {"time": moment(row.time), "data": orjson.loads(row.data)})


def item_of(entry: Entry) -> dict[str, Any]:
    """An event, for orjson, as `event_item` gives it once the view has read it."""
    row = row_of(entry)
    item = {name: row[name] for name in EventItem.model_fields}
    for name, value in item.items():
        if type(value) is str and "\x00" in value:
            item[name] = without_nul(value)
    return item | {"time": moment(entry.time), "data": orjson.Fragment(row["data"])}


def routes(door: Door, follow: Follow | None) -> APIRouter:
    """The routes of events; without `follow` there are pages only."""
    router = APIRouter(tags=["events"])
    topics = Events().topics
    names = {"topic": {t.name for t in topics}, "type": {e.__name__ for t in topics for e in t.events}}

    @router.get(
        "/v1/events",
        response_model=Page[EventItem],
        responses=PROBLEMS_OF_PAST if follow is None else PROBLEMS_OF_PAST | {200: _ANSWER},
    )
    async def list_events(
        request: Request,
        question: Annotated[EventsQuestion, Query()],
        caller: Annotated[Caller, Depends(door.caller)],
        last_event_id: Annotated[
            str | None,
            Header(
                alias="Last-Event-ID",
                description="Of a stream: go on after the event with this id. A page's `position` does as well.",
            ),
        ] = None,
    ) -> Page[EventItem] | Response:
        """Events of a project, a page at a time; or, with `Accept: text/event-stream`, as they are committed.

        A stream gives each event from now on, from `since` on (by the time at which it was written), or
        after the one with the given id, in the order of each partition. A message's `data` is an item of a
        page, `id` says where to resume. An event that its producer delivered twice comes twice. A message
        `end` says why the server ends a stream.
        """
        if follow is not None and _wants_stream(request):
            _refuse(question.model_fields_set - _OF_STREAMS, "is of pages, not of streams")
            for name, known in names.items():  # a stream of what cannot come would be silent for ever
                if getattr(question, name) not in (None, *known):
                    _refuse([name], f"is none of {', '.join(sorted(known))}")
            return await follow(request, caller, question, last_event_id or question.last_event_id)
        _refuse(question.model_fields_set & {"last_event_id"}, f"is of streams: send `Accept: {STREAM}`")
        if question.at is not None and question.correlation_id is None and question.partition is None:
            _refuse(
                ["at"], "needs a correlation_id or a partition"
            )  # else all that came later is gone through
        found, position = await door.answer(
            caller,
            question,
            ["events"],
            lambda reading, project: events_page(reading, project, question),
            lambda state, project: events_page(state.live, project, question, state.cut),
        )
        return found.model_copy(update={"position": position})

    return router


def _wants_stream(request: Request) -> bool:
    accepted = request.headers.get("accept", "").split(",")
    return any(part.partition(";")[0].strip().lower() == STREAM for part in accepted)


def _refuse(names: Iterable[str], why: str) -> None:
    flaws = [
        {"type": "value_error", "loc": ("query", name), "msg": f"{name} {why}"} for name in sorted(names)
    ]
    if flaws:
        raise RequestValidationError(flaws)
