"""GET /v1/runs: what came of each task, and its timeline."""

from math import inf
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Row, Table, case, select

from projections.access import Caller
from projections.api.door import (
    PROBLEMS_OF_ONE_PAST,
    PROBLEMS_OF_PAST,
    Door,
    Moment,
    Page,
    PastQuestion,
    Period,
    Text,
    Token,
    equals,
    moment,
    moment_or_none,
    seconds_or,
    within,
)
from projections.api.events import EventItem, EventsQuestion, events_page
from projections.columns import NANO
from projections.paging import NotFound, page
from projections.past import State
from projections.past.beginnings import by_beginning
from projections.past.cut import Cut
from projections.past.listing import listed
from projections.runs import COUNTS
from projections.store import Reading

Status = Literal["running", "finished", "untracked"]
Outcome = Literal["success", "failure", "cancelled", "unknown"]


class Run(BaseModel):
    """One task: what came of it, and what it took."""

    id: Annotated[str, Field(description="The correlation id that its events share.")]
    status: Annotated[
        Status, Field(description="untracked: steps share the id, and no start or end was told.")
    ]
    outcome: Outcome | None
    agent_id: Annotated[str | None, Field(description="Who started it; else who ended it; else first acted.")]
    task: str | None
    score: float | None
    reason: str | None
    first_seen: Moment
    last_seen: Moment
    started_at: Moment | None
    finished_at: Moment | None
    steps: Annotated[int, Field(description="Messages, errors and events of calls.")]
    messages: int
    tool_calls: Annotated[int, Field(description="Those that ended.")]
    tool_failures: int
    llm_calls: Annotated[int, Field(description="Those that ended.")]
    llm_failures: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    errors: int
    anomalies: int


class RunDetail(Run):
    """A run with its events by time. `timeline_next` goes on at GET /v1/events?correlation_id=…&cursor=….

    Of a run as it was it goes on there with the same `at`.
    """

    timeline: list[EventItem]
    timeline_next: str | None
    position: Token


class RunsQuestion(Period, PastQuestion):
    """Filters of runs; the period is that of the first event."""

    agent: Annotated[Text | None, Field(description="Agent's id.")] = None
    status: Status | None = None
    outcome: Outcome | None = None


class RunQuestion(PastQuestion):
    """Query parameters of one run."""

    limit: Annotated[int, Field(ge=1, le=500, description="Events of the timeline.")] = 500


def _status(table: Table) -> ColumnElement[str]:
    c = table.c
    return case(
        (c.finished_stamp.is_not(None), "finished"),
        (c.started_stamp.is_not(None), "running"),
        else_="untracked",
    )


def runs_page(reading: Reading, project: str, question: RunsQuestion) -> Page[Run]:
    """One page of runs, those begun last first; its position is filled in by the route."""
    table = reading.tables["runs"]["runs"]
    c, status = table.c, _status(table)
    statement = select(table, status.label("status")).where(
        c.project == project,
        c.first_seen.is_not(None),  # an anomaly came before the run's own events
        *equals((c.agent_id, question.agent), (status, question.status), (c.outcome, question.outcome)),
        *within(c.first_seen, question),
    )
    rows, following = page(
        reading.connection,
        statement,
        [c.first_seen, c.run_id],
        question=["runs", project, question.filters()],
        limit=question.limit,
        cursor=question.cursor,
        descending=True,
    )
    return Page(items=[Run(**_values(row)) for row in rows], next=following, position="")


def runs_then(state: State, project: str, question: RunsQuestion) -> Page[Run]:
    """The same of the past."""
    c = state.live.tables["runs"]["runs"].c
    begin, end = seconds_or(question.since, -inf), seconds_or(question.until, inf)
    return listed(
        by_beginning(state, project, "runs", begin, end),
        lambda: runs_page(state.reading, project, question),
        question=["runs", project, question.filters()],
        keys=[c.first_seen, c.run_id],
        limit=question.limit,
        cursor=question.cursor,
    )


def run_detail(
    reading: Reading,
    project: str,
    id_: str,
    limit: int,
    events: Reading | None = None,
    cut: Cut | None = None,
) -> RunDetail:
    """One run; its position is filled in by the route. Raises NotFound.

    `events` is where its events are, if elsewhere; those beyond the `cut` are left out.
    """
    table = reading.tables["runs"]["runs"]
    c = table.c
    row = reading.connection.execute(
        select(table, _status(table).label("status")).where(
            c.project == project, c.run_id == id_, c.first_seen.is_not(None)
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"project {project!r} has no run {id_!r}", hint="see GET /v1/runs for what there is")
    question = EventsQuestion.model_construct(correlation_id=id_, limit=limit)
    timeline = events_page(events or reading, project, question, cut)
    return RunDetail(**_values(row), timeline=timeline.items, timeline_next=timeline.next, position="")


def _values(row: Row[Any]) -> dict[str, Any]:
    columns = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for it
    plain = ("status", "outcome", "agent_id", "task", "score", "reason", *COUNTS)
    return {name: columns[name] for name in plain if name in Run.model_fields} | {
        "id": row.run_id,
        "first_seen": moment(row.first_seen),
        "last_seen": moment(row.last_seen),
        "started_at": moment_or_none(row.started_at),
        "finished_at": moment_or_none(row.finished_at),
        "cost_usd": row.cost_nanousd / NANO,
    }


def routes(door: Door) -> APIRouter:
    """The routes of runs."""
    router = APIRouter(tags=["runs"])

    @router.get("/v1/runs", responses=PROBLEMS_OF_PAST)
    async def list_runs(
        question: Annotated[RunsQuestion, Query()], caller: Annotated[Caller, Depends(door.caller)]
    ) -> Page[Run]:
        """Runs of a project, the last begun first, a page at a time."""
        found, position = await door.answer(
            caller,
            question,
            ["runs"],
            lambda r, project: runs_page(r, project, question),
            lambda state, project: runs_then(state, project, question),
        )
        return found.model_copy(update={"position": position})

    @router.get("/v1/runs/{run_id:path}", responses=PROBLEMS_OF_ONE_PAST)
    async def get_run(
        run_id: str,
        question: Annotated[RunQuestion, Query()],
        caller: Annotated[Caller, Depends(door.caller)],
    ) -> RunDetail:
        """One run, with its timeline."""
        found, position = await door.answer(
            caller,
            question,
            ["runs", "events"],
            lambda r, project: run_detail(r, project, run_id, question.limit),
            lambda state, project: run_detail(
                state.of(project, run_id), project, run_id, question.limit, state.live, state.cut
            ),
        )
        return found.model_copy(update={"position": position})

    return router
