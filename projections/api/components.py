"""GET /v1/components: what has health."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Row, Table, select

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
    moment,
    moment_or_none,
    starts_with,
)
from projections.columns import NANO
from projections.histogram import RELATIVE_ERROR, quantile
from projections.paging import NotFound, page
from projections.past import State
from projections.past.listing import by_id, listed
from projections.store import Reading

_SIGNALS_SHOWN = 200


class Latency(BaseModel):
    """Quantiles of call latency, milliseconds, over all calls; off by the relative error at most."""

    p50: float
    p95: float
    p99: float
    relative_error: float = RELATIVE_ERROR


class LastError(BaseModel):
    """The latest failure."""

    error_type: str
    time: Moment


class Component(BaseModel):
    """A component's counts since the log's start."""

    id: str
    kind: Annotated[str, Field(description="What stands before the colon: tool, agent, model; else empty.")]
    first_seen: Moment
    last_seen: Moment
    signals: Annotated[int, Field(description="All signals, each event once.")]
    calls: Annotated[int, Field(description="Calls that said whether they failed.")]
    failures: Annotated[int, Field(description="Failed calls.")]
    error_rate: Annotated[float | None, Field(description="failures / calls; null before the first call.")]
    errors: Annotated[int, Field(description="Errors reported beside calls.")]
    latency_ms: Latency | None
    input_tokens: int
    output_tokens: int
    cost_usd: float
    last_error: LastError | None


class SignalItem(BaseModel):
    """The last signal of one kind and name, and how many there were."""

    kind: str
    name: str
    time: Moment
    value: float | None
    unit: str
    failed: bool | None
    severity: str | None
    agent_id: str | None
    count: int
    min_value: float | None
    max_value: float | None


class ComponentDetail(Component):
    """A component with its last signals, the newest first."""

    last_signals: list[SignalItem]
    position: Token


class ComponentsQuestion(PageQuestion, PastQuestion):
    """Filters of components."""

    prefix: Annotated[Text | None, Field(description="Start of the id.")] = None
    kind: Annotated[Text | None, Field(description="What stands before the id's colon: tool.")] = None


def components_page(reading: Reading, project: str, question: ComponentsQuestion) -> Page[Component]:
    """One page of components, by id; its position is filled in by the route."""
    table = reading.tables["components"]["components"]
    rows, following = page(
        reading.connection,
        select(table).where(table.c.project == project, *_named(table, question)),
        [table.c.component],
        question=["components", project, question.filters()],
        limit=question.limit,
        cursor=question.cursor,
    )
    latencies = _latencies(reading, project, [row.component for row in rows])
    items = [Component(**_values(row, latencies.get(row.component))) for row in rows]
    return Page(items=items, next=following, position="")


def _named(table: Table, question: ComponentsQuestion) -> list[ColumnElement[bool]]:
    conditions = []
    if question.prefix is not None:
        conditions += starts_with(table.c.component, question.prefix)
    if question.kind is not None:
        conditions += starts_with(table.c.component, f"{question.kind}:")
    return conditions


def components_then(state: State, project: str, question: ComponentsQuestion) -> Page[Component]:
    """The same of the past."""
    table = state.live.tables["components"]["components"]
    return listed(
        by_id(
            state,
            project,
            table.c.component,
            *_named(table, question),
            tables=("components", "latency"),
        ),
        lambda: components_page(state.reading, project, question),
        question=["components", project, question.filters()],
        keys=[table.c.component],
        limit=question.limit,
        cursor=question.cursor,
    )


def component_detail(reading: Reading, project: str, id_: str) -> ComponentDetail:
    """One component; its position is filled in by the route. Raises NotFound."""
    table, signals = (reading.tables["components"][name] for name in ("components", "signals"))
    row = reading.connection.execute(
        select(table).where(table.c.project == project, table.c.component == id_)
    ).one_or_none()
    if row is None:
        raise NotFound(
            f"project {project!r} has no component {id_!r}", hint="see GET /v1/components for what there is"
        )
    last = reading.connection.execute(
        select(signals)
        .where(signals.c.project == project, signals.c.component == id_)
        .order_by(signals.c.stamp.desc(), signals.c.kind, signals.c.name)
        .limit(_SIGNALS_SHOWN)
    )
    values = _values(row, _latencies(reading, project, [id_]).get(id_))
    shown = [SignalItem(**dict(s._mapping) | {"time": moment(s.time)}) for s in last]  # noqa: SLF001
    return ComponentDetail(**values, last_signals=shown, position="")


def _latencies(reading: Reading, project: str, ids: Sequence[str]) -> dict[str, Latency]:
    table = reading.tables["components"]["latency"]
    rows = reading.connection.execute(
        select(table.c.component, table.c.bucket, table.c.count).where(
            table.c.project == project, table.c.component.in_(ids)
        )
    )
    counts: dict[str, dict[int, int]] = {}
    for component, bucket, count in rows:
        counts.setdefault(component, {})[bucket] = count
    return {component: _latency(buckets) for component, buckets in counts.items()}


def _latency(buckets: Mapping[int, int]) -> Latency:
    p50, p95, p99 = (quantile(buckets, q) or 0.0 for q in (0.5, 0.95, 0.99))
    return Latency(p50=p50, p95=p95, p99=p99)


def _values(row: Row[Any], latency: Latency | None) -> dict[str, Any]:
    kind, colon, _ = row.component.partition(":")
    last_error = None
    if row.last_error_type is not None:
        last_error = LastError(error_type=row.last_error_type, time=moment(row.last_error_time))
    counts = ("signals", "calls", "failures", "errors", "input_tokens", "output_tokens")
    return {name: row._mapping[name] for name in counts} | {  # noqa: SLF001 - SQLAlchemy's public name
        "id": row.component,
        "kind": kind if colon else "",
        "first_seen": moment_or_none(row.first_seen),
        "last_seen": moment_or_none(row.last_seen),
        "error_rate": row.failures / row.calls if row.calls else None,
        "latency_ms": latency,
        "cost_usd": row.cost_nanousd / NANO,
        "last_error": last_error,
    }


def routes(door: Door) -> APIRouter:
    """The routes of components."""
    router = APIRouter(tags=["components"])

    @router.get("/v1/components", responses=PROBLEMS_OF_PAST)
    async def list_components(
        question: Annotated[ComponentsQuestion, Query()], caller: Annotated[Caller, Depends(door.caller)]
    ) -> Page[Component]:
        """Components of a project, by id, a page at a time."""
        found, position = await door.answer(
            caller,
            question,
            ["components"],
            lambda r, project: components_page(r, project, question),
            lambda state, project: components_then(state, project, question),
        )
        return found.model_copy(update={"position": position})

    @router.get("/v1/components/{component_id:path}", responses=PROBLEMS_OF_ONE_PAST)
    async def get_component(
        component_id: str,
        question: Annotated[PastQuestion, Query()],
        caller: Annotated[Caller, Depends(door.caller)],
    ) -> ComponentDetail:
        """One component, with its last signals."""
        found, position = await door.answer(
            caller,
            question,
            ["components"],
            lambda r, project: component_detail(r, project, component_id),
            lambda state, project: component_detail(state.of(project, component_id), project, component_id),
        )
        return found.model_copy(update={"position": position})

    return router
