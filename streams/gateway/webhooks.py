"""Registering webhooks: POST, PUT and DELETE under /v1/webhooks. Each change is an event."""

import asyncio
from contextlib import suppress
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field

from projections.access import ADMIN, Caller, project_for, require
from projections.api.effects import Webhook, webhook_detail
from projections.position import encode
from projections.problem import documented
from projections.store import Store
from schemas import events as e
from schemas.envelope import format_time, new_id
from schemas.errors import InvalidEvent
from streams.gateway.auth import Guard
from streams.gateway.quotas import Quotas
from streams.producing.outgoing import Outgoing, address, prepare_control
from streams.producing.producer import Producer
from streams.reactors import signing
from streams.reactors.addresses import Addresses, parsed_url, port_of
from streams.reactors.notifier import TYPES, sendable
from streams.reactors.reactor import NotActed
from streams.secret import secret_of

_TYPES = ", ".join(sorted(t.__name__ for t in TYPES))
_PROBLEMS = documented(400, 401, 403, 422, 429, 503, 507)
_PROBLEMS_OF_ONE = documented(400, 401, 403, 404, 422, 429, 503, 507)
Project = Annotated[str | None, Field(description="For the administrator's key; others see their own.")]


class Wanted(BaseModel):
    """What is to be sent where."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[
        str, Field(min_length=1, max_length=2048, description="http or https; private addresses are refused.")
    ]
    types: Annotated[
        list[str],
        Field(
            max_length=50,
            description=f"Of {_TYPES}, and types in derived topics of installed packages; empty: {_TYPES}.",
        ),
    ] = []
    severity: Annotated[e.Severity | None, Field(description="The least that is sent.")] = None
    components: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(max_length=50, description="Beginnings of names, such as `tool:`; empty: all."),
    ] = []
    idempotent: Annotated[
        bool,
        Field(
            description="Whether a message with an `Idempotency-Key` that was seen does nothing. Where not, one "
            "whose outcome is unknown is reported and never sent again."
        ),
    ] = True
    description: Annotated[str, Field(max_length=1024)] = ""
    project: Project = None


class Registered(BaseModel):
    """A webhook, with the secret that signs its messages."""

    webhook: Webhook
    secret: Annotated[str, Field(description="Standard Webhooks' secret; GET does not show it.")]
    position: Annotated[str, Field(description="Send it as `at_least` to GET /v1/webhooks.")]


class Changed(BaseModel):
    """The change is in the log."""

    id: str
    position: str


def routes(producer: Producer, guard: Guard, store: Store, quotas: Quotas) -> APIRouter:
    """The routes; for keys with the scope admin. Findings made after the change are treated by it."""
    door = _Webhooks(producer, store, quotas)
    router = APIRouter(tags=["webhooks"])

    @router.post("/v1/webhooks", status_code=201, responses=_PROBLEMS)
    async def register_webhook(
        wanted: Wanted, caller: Annotated[Caller, Depends(guard.caller)]
    ) -> Registered:
        """Register a webhook."""
        owner = await door.owner(caller, wanted.project)
        return await door.register(owner, new_id(), wanted, 1)

    @router.put("/v1/webhooks/{webhook_id}", responses=_PROBLEMS_OF_ONE)
    async def replace_webhook(
        webhook_id: str, wanted: Wanted, caller: Annotated[Caller, Depends(guard.caller)]
    ) -> Registered:
        """Give a webhook another URL or other filters; its secret stays."""
        owner = await door.owner(caller, wanted.project)
        known = await door.known(owner, webhook_id)
        return await door.register(owner, webhook_id, wanted, known.secret_version, known)

    @router.post("/v1/webhooks/{webhook_id}/rotate", responses=_PROBLEMS_OF_ONE)
    async def rotate_secret(
        webhook_id: str, caller: Annotated[Caller, Depends(guard.caller)], project: str | None = None
    ) -> Registered:
        """Give a webhook another secret, which signs everything sent from now on."""
        owner = await door.owner(caller, project)
        known = await door.known(owner, webhook_id)
        wanted = Wanted.model_validate(known.model_dump(include=set(Wanted.model_fields)))
        return await door.register(owner, webhook_id, wanted, known.secret_version + 1, known)

    @router.post("/v1/webhooks/{webhook_id}/test", status_code=202, responses=_PROBLEMS_OF_ONE)
    async def test_webhook(
        webhook_id: str, caller: Annotated[Caller, Depends(guard.caller)], project: str | None = None
    ) -> Changed:
        """Send a `WebhookTested` event; GET /v1/effects?target=<webhook> shows what came of it."""
        owner = await door.owner(caller, project)
        await door.known(owner, webhook_id)
        event = e.WebhookTested(test_id=new_id(), webhook_id=webhook_id)
        return Changed(id=event.test_id, position=(await door.write(owner, event))[1])

    @router.delete("/v1/webhooks/{webhook_id}", responses=_PROBLEMS_OF_ONE)
    async def remove_webhook(
        webhook_id: str, caller: Annotated[Caller, Depends(guard.caller)], project: str | None = None
    ) -> Changed:
        """Send nothing more to it; what waits for it is dropped."""
        owner = await door.owner(caller, project)
        await door.known(owner, webhook_id)
        position = (await door.write(owner, e.WebhookRemoved(webhook_id=webhook_id)))[1]
        return Changed(id=webhook_id, position=position)

    return router


class _Owner(NamedTuple):
    """The project that a webhook is of, and the id of the key that changes it."""

    project: str
    key: str


class _Webhooks:
    """What the routes have in common."""

    def __init__(self, producer: Producer, store: Store, quotas: Quotas) -> None:
        self._producer = producer
        self._quotas = quotas
        self._store = store
        self._secret = secret_of(producer.settings)
        self._addresses = Addresses(producer.settings.webhook_networks)

    async def owner(self, caller: Caller, wanted: str | None) -> _Owner:
        """Whose webhooks are to be changed, which counts as an event. Raises Forbidden or QuotaExceeded."""
        require(caller, ADMIN)
        owner = _Owner(project_for(caller, wanted), caller.key)
        await self._quotas.patience(caller)
        self._quotas.take(caller, 1, 0)
        return owner

    async def known(self, owner: _Owner, id_: str) -> Webhook:
        """The webhook as the view has it. Raises NotFound."""

        def read() -> Webhook:
            with self._store.read("effects") as reading:
                return webhook_detail(reading, owner.project, id_)

        return await asyncio.to_thread(read)

    async def register(
        self, owner: _Owner, id_: str, wanted: Wanted, version: int, known: Webhook | None = None
    ) -> Registered:
        known_types = sorted(t.__name__ for t in sendable())
        unknown = sorted(set(wanted.types) - set(known_types))
        if unknown:
            raise InvalidEvent(
                f"types: {', '.join(unknown)} cannot be sent", hint=f"one of {', '.join(known_types)}"
            )
        parsed = parsed_url(wanted.url)
        with suppress(NotActed):  # it may have an address by the time that there is something to send
            await self._addresses.of(parsed.host, port_of(parsed))
        url = str(parsed)
        said = wanted.model_dump(exclude={"project", "url"})
        event = e.WebhookRegistered(webhook_id=id_, url=url, secret_version=version, **said)
        outgoing, position = await self.write(owner, event)
        now = format_time(outgoing.envelope.time)
        created = known.created_at if known is not None else now
        webhook = Webhook(
            id=id_, **event.model_dump(exclude={"webhook_id"}), created_at=created, updated_at=now
        )
        secret = signing.secret_for(self._secret, owner.project, id_, version)
        return Registered(webhook=webhook, secret=signing.shown(secret), position=position)

    async def write(self, owner: _Owner, event: e.Event) -> tuple[Outgoing, str]:
        """Write a change; gives it as it was written, and its position token."""
        outgoing = replace(address(event, "http", {"project": owner.project}), producer_key=owner.key)
        (at,) = await self._producer.send([prepare_control(outgoing, await self._producer.codec())])
        return outgoing, encode({at.topic: {at.partition: at.offset + 1}})
