"""What all questions have in common: whose project, how fresh, which page; and how they are answered."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import ColumnElement
from starlette.concurrency import run_in_threadpool

from projections.access import Caller, project_for
from projections.api.turns import Turns
from projections.columns import without_nul
from projections.past import BadMoment, Past, State
from projections.position import Position, decode, encode, position_of
from projections.problem import documented
from projections.store import Reading, Store
from projections.view import Offsets
from schemas.envelope import format_time

T = TypeVar("T")
Item = TypeVar("Item", bound=BaseModel)
WaitFor = Callable[[Position, str, float], Awaitable[None]]
"""(position, view, seconds): returns when the view reflects it. Raises DeadlineExceeded, BadToken."""
PROBLEMS = documented(400, 401, 403, 422, 429, 503, 504)
PROBLEMS_OF_ONE = documented(400, 401, 403, 404, 422, 429, 503, 504)
PROBLEMS_OF_PAST = PROBLEMS | documented(410)
PROBLEMS_OF_ONE_PAST = PROBLEMS_OF_ONE | documented(410)
_FIRST, _LAST = -62_135_596_800.0, 253_402_300_799.999

Text = Annotated[str, Field(min_length=1, max_length=512)]
Moment = Annotated[
    str, Field(description="RFC 3339, UTC, microseconds.", json_schema_extra={"format": "date-time"})
]
Token = Annotated[
    str,
    Field(
        description="Opaque: what this answer reflects. Send it as `at_least` to see no older one,"
        " as `at` to see this one again."
    ),
]


class Question(BaseModel):
    """Query parameters of every question; one that is not known is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    project: Annotated[
        Text | None, Field(description="For the administrator's key; others see their own.")
    ] = None
    at_least: Annotated[
        str | None, Field(description="A position token: wait until the answer reflects it.")
    ] = None
    deadline_s: Annotated[
        float, Field(ge=0, le=60, description="Seconds to wait for `at_least`, then 504.")
    ] = 10

    @model_validator(mode="before")
    @classmethod
    def _has_a_past(cls, given: Any) -> Any:
        if "at" not in cls.model_fields and isinstance(given, dict) and "at" in given:
            raise ValueError(
                "of these no past is kept, as it is of components, agents, runs and events: leave out at"
            )
        return given


class PastQuestion(Question):
    """Questions that can be asked about the past."""

    at: Annotated[
        str | None,
        Field(
            min_length=1,
            description="A time (RFC 3339; without a zone: UTC) or a position token: how it was then. A time means the"
            " records that Kafka stamped before it, a token those below it and no others. Waits as `at_least`"
            " does. With the `position` of a list's first page all its pages are of one moment.",
        ),
    ] = None

    @model_validator(mode="after")
    def _one_moment(self) -> Self:
        if self.at is not None and self.at_least is not None:
            raise ValueError("at and at_least exclude each other")
        return self


class PageQuestion(Question):
    """Query parameters of every list."""

    limit: Annotated[int, Field(ge=1, le=500, description="Items on a page.")] = 50
    cursor: Annotated[str | None, Field(description="`next` of the page before, with the same filters.")] = (
        None
    )

    def filters(self) -> dict[str, Any]:
        """What a cursor is bound to."""
        return self.model_dump(exclude={"limit", "cursor", "at", "at_least", "deadline_s", "project"})


class Period(PageQuestion):
    """Lists that can be cut by event time."""

    since: Annotated[datetime | None, Field(description="From this time on; without a zone: UTC.")] = None
    until: Annotated[datetime | None, Field(description="Before this time; without a zone: UTC.")] = None


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: Annotated[str | None, Field(description="Cursor of the next page; null: this is the last.")]
    position: Token


@dataclass(frozen=True)
class Door:
    """What the routes need from the application. `caller` is a FastAPI dependency giving a Caller.

    Without `past` nothing can be asked about it.
    """

    store: Store
    caller: Callable[..., Any]
    wait_for: WaitFor
    past: Past | None = None
    turns: Turns = field(default_factory=Turns)

    async def answer(
        self,
        caller: Caller,
        question: Question,
        views: Sequence[str],
        query: Callable[[Reading, str], T],
        then: Callable[[State, str], T] | None = None,
    ) -> tuple[T, str]:
        """What `query(reading, project)` gives, or `then(state, project)` of the past; and its position token.

        Rows and position come from one SQL transaction; the first of `views` is the one with a state. Raises
        Forbidden, QuotaExceeded, BadToken, BadMoment, OffsetOutOfRange, ViewNotReady and DeadlineExceeded.
        """
        project = project_for(caller, question.project)
        async with self.turns.question(caller) as reading:
            if then is not None and isinstance(question, PastQuestion) and question.at is not None:
                if self.past is None:
                    raise BadMoment("the past is not kept here", hint="leave `at` out")
                end = time.monotonic() + question.deadline_s
                cut = await self.past.cut(question.at, views, question.deadline_s)
                async with reading:
                    found = await self.past.ask(
                        views, cut, lambda state: then(state, without_nul(project)), end - time.monotonic()
                    )
                return found, self._token(views, [cut])
            if question.at_least is not None:
                position = decode(question.at_least)
                end = time.monotonic() + question.deadline_s
                for view in views:
                    await self.wait_for(position, view, max(0.0, end - time.monotonic()))
            async with reading:
                return await run_in_threadpool(self._read, views, query, project)

    def _read(self, views: Sequence[str], query: Callable[[Reading, str], T], project: str) -> tuple[T, str]:
        with self.store.read(*views) as reading:
            return query(reading, project), self._token(views, reading.offsets.values())

    def _token(self, views: Sequence[str], offsets: Iterable[Offsets]) -> str:
        """Names every topic that the views read, also those of which there was nothing yet."""
        read: dict[str, Mapping[int, int]] = {
            topic.name: {} for view in views for topic in self.store.views[view].topics
        }
        return encode({**read, **position_of(offsets)})


def moment(seconds: float) -> str:
    """Event time as text; what lies outside of the years 1 to 9999 is shown as their first or last moment."""
    return format_time(min(max(seconds, _FIRST), _LAST))


def moment_or_none(seconds: float | None) -> str | None:
    """The same, where there may be none."""
    return None if seconds is None else moment(seconds)


def within(column: ColumnElement[float], question: Period) -> list[ColumnElement[bool]]:
    """Conditions of a period."""
    conditions = []
    if question.since is not None:
        conditions.append(column >= seconds(question.since))
    if question.until is not None:
        conditions.append(column < seconds(question.until))
    return conditions


def equals(*pairs: tuple[ColumnElement[Any], Any]) -> list[ColumnElement[bool]]:
    """Conditions of those filters that were given."""
    return [column == value for column, value in pairs if value is not None]


def starts_with(column: ColumnElement[str], prefix: str) -> list[ColumnElement[bool]]:
    """A prefix as a range: an index serves it, and LIKE would not mind case in SQLite."""
    return [column >= prefix, column < prefix + "\U0010ffff"]


def seconds_or(value: datetime | None, default: float) -> float:
    """A time as seconds since 1970, where there is one."""
    return default if value is None else seconds(value)


def seconds(value: datetime) -> float:
    """Since 1970; without a zone it is UTC."""
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
