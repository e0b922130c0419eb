"""GET /v1/anomalies and /v1/dead-letters: what needs a look, the newest first."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import Row, select

from projections.access import Caller
from projections.api.door import (
    PROBLEMS,
    Door,
    Moment,
    Page,
    Period,
    Text,
    equals,
    moment,
    within,
)
from projections.paging import page
from projections.store import Reading


class Recorded(BaseModel):
    """An event's name and place in the log."""

    id: str
    source: str
    time: Moment
    topic: str
    partition: int
    offset: int
    correlation_id: str | None
    causation_id: str | None


class AnomalyItem(Recorded):
    """A component's metric left what it had been doing."""

    component: str
    metric: str
    value: float
    expected: float
    score: float
    threshold: float
    severity: str
    detector: str
    unit: str
    summary: str


class DeadLetterItem(Recorded):
    """A record that no fold could take; `of_*` is where it stands. Key, value and headers are base64."""

    of_topic: str
    of_partition: int
    of_offset: int
    fold: Annotated[str | None, Field(description="The fold that raised; null: nobody could read it.")]
    error_type: str
    error_message: str
    key: str | None
    value: str | None
    headers: dict[str, str]


class AnomaliesQuestion(Period):
    """Filters of anomalies."""

    component: Text | None = None
    metric: Text | None = None
    severity: Literal["info", "warning", "error", "critical"] | None = None
    detector: Text | None = None
    correlation_id: Text | None = None


class DeadLettersQuestion(Period):
    """Filters of dead letters."""

    topic: Annotated[Text | None, Field(description="Topic of the record that failed.")] = None
    fold: Text | None = None
    error_type: Text | None = None


def anomalies_page(reading: Reading, project: str, question: AnomaliesQuestion) -> Page[AnomalyItem]:
    """One page of anomalies; its position is filled in by the route."""
    c = reading.tables["anomalies"]["anomalies"].c
    names = ("component", "metric", "severity", "detector", "correlation_id")
    filters = [(c[name], getattr(question, name)) for name in names]
    rows, following = _page(reading, "anomalies", project, question, filters)
    items = [AnomalyItem(**_values(row)) for row in rows]
    return Page(items=items, next=following, position="")


def dead_letters_page(reading: Reading, project: str, question: DeadLettersQuestion) -> Page[DeadLetterItem]:
    """One page of dead letters; its position is filled in by the route."""
    c = reading.tables["dead_letters"]["dead_letters"].c
    filters = [(c.of_topic, question.topic), (c.fold, question.fold), (c.error_type, question.error_type)]
    rows, following = _page(reading, "dead_letters", project, question, filters)
    items = [DeadLetterItem(**_values(row) | {"headers": orjson.loads(row.headers)}) for row in rows]
    return Page(items=items, next=following, position="")


def _page(reading: Reading, view: str, project: str, question: Period, filters: list[tuple[Any, Any]]) -> Any:
    table = reading.tables[view][view]
    c = table.c
    return page(
        reading.connection,
        select(table).where(c.project == project, *equals(*filters), *within(c.time, question)),
        [c.time, c.source, c.id],
        question=[view, project, question.filters()],
        limit=question.limit,
        cursor=question.cursor,
        descending=True,
    )


def _values(row: Row[Any]) -> dict[str, Any]:
    return dict(row._mapping) | {"time": moment(row.time)}  # noqa: SLF001 - SQLAlchemy's public name for it


def routes(door: Door) -> APIRouter:
    """The routes of findings."""
    router = APIRouter(tags=["findings"])

    @router.get("/v1/anomalies", responses=PROBLEMS)
    async def list_anomalies(
        question: Annotated[AnomaliesQuestion, Query()], caller: Annotated[Caller, Depends(door.caller)]
    ) -> Page[AnomalyItem]:
        """Anomalies of a project, the newest first, a page at a time."""
        found, position = await door.answer(
            caller, question, ["anomalies"], lambda r, project: anomalies_page(r, project, question)
        )
        return found.model_copy(update={"position": position})

    @router.get("/v1/dead-letters", responses=PROBLEMS)
    async def list_dead_letters(
        question: Annotated[DeadLettersQuestion, Query()], caller: Annotated[Caller, Depends(door.caller)]
    ) -> Page[DeadLetterItem]:
        """Dead letters of a project, the newest first, a page at a time."""
        found, position = await door.answer(
            caller, question, ["dead_letters"], lambda r, project: dead_letters_page(r, project, question)
        )
        return found.model_copy(update={"position": position})

    return router
