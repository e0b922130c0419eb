"""GET /v1/effects and /v1/webhooks: what was done in the outside world, and where findings are sent."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import Row, select

from projections.access import ADMIN, Caller, require
from projections.api.door import (
    PROBLEMS,
    PROBLEMS_OF_ONE,
    Door,
    Moment,
    Page,
    PageQuestion,
    Period,
    Question,
    Text,
    Token,
    equals,
    moment,
    moment_or_none,
    within,
)
from projections.paging import NotFound, page
from projections.store import Reading
from schemas.events import Severity

Status = Literal["intended", "deferred", "succeeded", "failed", "unknown", "dropped"]


class EffectItem(BaseModel):
    """One effect and how far it is."""

    id: Annotated[str, Field(description="The idempotency key that its calls carry.")]
    reactor: str
    target: Annotated[str, Field(description="What is acted on, such as a webhook's id.")]
    status: Annotated[
        Status, Field(description="unknown: it may have happened, and must not be repeated by itself.")
    ]
    attempt: Annotated[int, Field(description="Calls so far.")]
    until: Annotated[Moment | None, Field(description="When it is tried again, while it is deferred.")]
    detail: str | None
    error_type: str | None
    error_message: str | None
    latency_ms: float | None
    first_seen: Moment
    last_seen: Moment
    correlation_id: str | None
    causation_id: Annotated[str | None, Field(description="Id of the event that called for it.")]


class EffectsQuestion(Period):
    """Filters of effects."""

    reactor: Text | None = None
    target: Text | None = None
    status: Status | None = None
    causation_id: Text | None = None
    correlation_id: Text | None = None


class Webhook(BaseModel):
    """A URL that findings are sent to."""

    id: str
    url: str
    types: list[str]
    severity: Severity | None
    components: list[str]
    idempotent: bool
    description: str
    secret_version: int
    created_at: Moment
    updated_at: Moment


class WebhookDetail(Webhook):
    """One webhook."""

    position: Token


def effects_page(reading: Reading, project: str, question: EffectsQuestion) -> Page[EffectItem]:
    """One page of effects; its position is filled in by the route."""
    table = reading.tables["effects"]["effects"]
    c = table.c
    names = ("reactor", "target", "status", "causation_id", "correlation_id")
    rows, following = page(
        reading.connection,
        select(table).where(
            c.project == project,
            *equals(*((c[name], getattr(question, name)) for name in names)),
            *within(c.first_seen, question),
        ),
        [c.first_seen, c.reactor, c.effect_id],
        question=["effects", project, question.filters()],
        limit=question.limit,
        cursor=question.cursor,
        descending=True,
    )
    return Page(items=[_effect(row) for row in rows], next=following, position="")


def webhooks_page(reading: Reading, project: str, question: PageQuestion) -> Page[Webhook]:
    """One page of webhooks, by id; its position is filled in by the route."""
    table = reading.tables["effects"]["webhooks"]
    rows, following = page(
        reading.connection,
        select(table).where(table.c.project == project, table.c.removed.is_(False)),
        [table.c.webhook_id],
        question=["webhooks", project, question.filters()],
        limit=question.limit,
        cursor=question.cursor,
    )
    return Page(items=[Webhook(**_webhook(row)) for row in rows], next=following, position="")


def webhook_detail(reading: Reading, project: str, id_: str) -> WebhookDetail:
    """One webhook; its position is filled in by the route. Raises NotFound."""
    c = reading.tables["effects"]["webhooks"].c
    row = reading.connection.execute(
        select(reading.tables["effects"]["webhooks"]).where(
            c.project == project, c.webhook_id == id_, c.removed.is_(False)
        )
    ).one_or_none()
    if row is None:
        raise NotFound(
            f"project {project!r} has no webhook {id_!r}", hint="see GET /v1/webhooks for what there is"
        )
    return WebhookDetail(**_webhook(row), position="")


def _effect(row: Row[Any]) -> EffectItem:
    values = {k: v for k, v in row._mapping.items() if k in EffectItem.model_fields}  # noqa: SLF001 - public
    values |= {"id": row.effect_id, "first_seen": moment(row.first_seen), "last_seen": moment(row.last_seen)}
    return EffectItem(**values | {"until": moment_or_none(row.until)})


def _webhook(row: Row[Any]) -> dict[str, Any]:
    plain = ("url", "severity", "idempotent", "description", "secret_version")
    return {name: getattr(row, name) for name in plain} | {
        "id": row.webhook_id,
        "types": orjson.loads(row.types),
        "components": orjson.loads(row.components),
        "created_at": moment(row.first_seen),
        "updated_at": moment(row.updated_at),
    }


def routes(door: Door) -> APIRouter:
    """The routes of effects and webhooks."""
    router = APIRouter()

    @router.get("/v1/effects", responses=PROBLEMS, tags=["effects"])
    async def list_effects(
        question: Annotated[EffectsQuestion, Query()], caller: Annotated[Caller, Depends(door.caller)]
    ) -> Page[EffectItem]:
        """Effects of a project, the newest first, a page at a time."""
        found, position = await door.answer(
            caller, question, ["effects"], lambda r, project: effects_page(r, project, question)
        )
        return found.model_copy(update={"position": position})

    @router.get("/v1/webhooks", responses=PROBLEMS, tags=["webhooks"])
    async def list_webhooks(
        question: Annotated[PageQuestion, Query()], caller: Annotated[Caller, Depends(door.caller)]
    ) -> Page[Webhook]:
        """Webhooks of a project, a page at a time; for keys with the scope admin."""
        require(caller, ADMIN)
        found, position = await door.answer(
            caller, question, ["effects"], lambda r, project: webhooks_page(r, project, question)
        )
        return found.model_copy(update={"position": position})

    @router.get("/v1/webhooks/{webhook_id}", responses=PROBLEMS_OF_ONE, tags=["webhooks"])
    async def get_webhook(
        webhook_id: str,
        question: Annotated[Question, Query()],
        caller: Annotated[Caller, Depends(door.caller)],
    ) -> WebhookDetail:
        """One webhook; for keys with the scope admin."""
        require(caller, ADMIN)
        found, position = await door.answer(
            caller, question, ["effects"], lambda r, project: webhook_detail(r, project, webhook_id)
        )
        return found.model_copy(update={"position": position})

    return router
