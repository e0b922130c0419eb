"""GET /v1/agents: the fleet."""

from typing import Annotated, Any, Literal

import orjson
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
    PageQuestion,
    PastQuestion,
    Text,
    Token,
    equals,
    moment,
    moment_or_none,
    starts_with,
)
from projections.columns import NANO
from projections.paging import NotFound, page
from projections.past import State
from projections.past.listing import by_id, listed
from projections.store import Reading

Status = Literal["active", "retired", "unannounced"]


class Agent(BaseModel):
    """What an agent said of itself last, and what it did since the log's start."""

    id: str
    status: Annotated[
        Status, Field(description="unannounced: it acts, and never said that it is there or went.")
    ]
    role: str | None
    version: str | None
    capabilities: list[str]
    models: list[str]
    load: Annotated[float | None, Field(description="Of the last heartbeat: share of capacity in use.")]
    first_seen: Moment
    last_seen: Moment
    announced_at: Moment | None
    heartbeat_at: Moment | None
    retired_at: Moment | None
    retired_reason: str | None
    heartbeats: int
    calls: Annotated[int, Field(description="Tool and model calls that ended.")]
    failures: Annotated[int, Field(description="Those that failed.")]
    errors: int
    runs: Annotated[int, Field(description="Runs that ended.")]
    failed_runs: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


class AgentDetail(Agent):
    """One agent."""

    position: Token


class AgentsQuestion(PageQuestion, PastQuestion):
    """Filters of agents."""

    prefix: Annotated[Text | None, Field(description="Start of the id.")] = None
    role: Text | None = None
    status: Status | None = None


def _status(table: Table) -> ColumnElement[str]:
    """Stamps are ordered by time: whoever lives after he retired is active."""
    c = table.c
    gone = c.retired_stamp.is_not(None) & (c.alive_stamp.is_(None) | (c.retired_stamp > c.alive_stamp))
    return case((gone, "retired"), (c.alive_stamp.is_(None), "unannounced"), else_="active")


def agents_page(reading: Reading, project: str, question: AgentsQuestion) -> Page[Agent]:
    """One page of agents, by id; its position is filled in by the route."""
    table = reading.tables["agents"]["agents"]
    status = _status(table)
    statement = select(table, status.label("status")).where(
        table.c.project == project,
        *_named(table, question),
        *equals((table.c.role, question.role), (status, question.status)),
    )
    rows, following = page(
        reading.connection,
        statement,
        [table.c.agent_id],
        question=["agents", project, question.filters()],
        limit=question.limit,
        cursor=question.cursor,
    )
    return Page(items=[Agent(**_values(row)) for row in rows], next=following, position="")


def _named(table: Table, question: AgentsQuestion) -> list[ColumnElement[bool]]:
    return [] if question.prefix is None else starts_with(table.c.agent_id, question.prefix)


def agents_then(state: State, project: str, question: AgentsQuestion) -> Page[Agent]:
    """The same of the past."""
    table = state.live.tables["agents"]["agents"]
    return listed(
        by_id(state, project, table.c.agent_id, *_named(table, question), tables=("agents",)),
        lambda: agents_page(state.reading, project, question),
        question=["agents", project, question.filters()],
        keys=[table.c.agent_id],
        limit=question.limit,
        cursor=question.cursor,
    )


def agent_detail(reading: Reading, project: str, id_: str) -> AgentDetail:
    """One agent; its position is filled in by the route. Raises NotFound."""
    table = reading.tables["agents"]["agents"]
    row = reading.connection.execute(
        select(table, _status(table).label("status")).where(
            table.c.project == project, table.c.agent_id == id_
        )
    ).one_or_none()
    if row is None:
        raise NotFound(
            f"project {project!r} has no agent {id_!r}", hint="see GET /v1/agents for what there is"
        )
    return AgentDetail(**_values(row), position="")


def _values(row: Row[Any]) -> dict[str, Any]:
    values = {k: v for k, v in row._mapping.items() if k in Agent.model_fields}  # noqa: SLF001
    return values | {
        "id": row.agent_id,
        "capabilities": orjson.loads(row.capabilities or "[]"),
        "models": orjson.loads(row.models or "[]"),
        "first_seen": moment(row.first_seen),
        "last_seen": moment(row.last_seen),
        "announced_at": moment_or_none(row.announced_at),
        "heartbeat_at": moment_or_none(row.heartbeat_at),
        "retired_at": moment_or_none(row.retired_at),
        "cost_usd": row.cost_nanousd / NANO,
    }


def routes(door: Door) -> APIRouter:
    """The routes of agents."""
    router = APIRouter(tags=["agents"])

    @router.get("/v1/agents", responses=PROBLEMS_OF_PAST)
    async def list_agents(
        question: Annotated[AgentsQuestion, Query()], caller: Annotated[Caller, Depends(door.caller)]
    ) -> Page[Agent]:
        """Agents of a project, by id, a page at a time."""
        found, position = await door.answer(
            caller,
            question,
            ["agents"],
            lambda r, project: agents_page(r, project, question),
            lambda state, project: agents_then(state, project, question),
        )
        return found.model_copy(update={"position": position})

    @router.get("/v1/agents/{agent_id:path}", responses=PROBLEMS_OF_ONE_PAST)
    async def get_agent(
        agent_id: str,
        question: Annotated[PastQuestion, Query()],
        caller: Annotated[Caller, Depends(door.caller)],
    ) -> AgentDetail:
        """One agent."""
        found, position = await door.answer(
            caller,
            question,
            ["agents"],
            lambda r, project: agent_detail(r, project, agent_id),
            lambda state, project: agent_detail(state.of(project, agent_id), project, agent_id),
        )
        return found.model_copy(update={"position": position})

    return router
