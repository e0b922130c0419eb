"""Notifier: sends findings to the webhooks that a project has registered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import orjson

from projections.recorded import event_json
from schemas import catalog, topics
from schemas import events as e
from schemas.envelope import Envelope, format_time
from streams.reactors.reactor import Call, Done, Effect, NotWanted, Reactor
from streams.secret import secret_of

if TYPE_CHECKING:
    from streams.reactors.delivery import Deliveries
    from streams.reactors.table import Row, Table
    from streams.settings import Settings

FINDINGS: Final = (topics.ANOMALIES, topics.DEAD_LETTERS)
TYPES: Final = tuple(event for topic in FINDINGS for event in topic.events)
"""What is sent to a webhook that names no types."""
_OURS: Final = [event.__name__ for event in TYPES]
_SEVERITIES: Final = ("info", "warning", "error", "critical")


def own_findings() -> tuple[topics.Topic, ...]:
    """Topics in which folds of packages say what they found."""
    added = (topic for added in catalog.survey().found for topic in added.value)
    return tuple(topic for topic in added if topic.kind == "derived")


def sendable() -> tuple[type[e.Event], ...]:
    """The event types that a webhook may name: ours, and what folds of packages find."""
    return (*TYPES, *(event for topic in own_findings() for event in topic.events))


class Notifier(Reactor):
    """One effect for each finding and each webhook of its project that wants it.

    A webhook gets what is found after it was registered. Effects of what effects led to are not
    made: a delivery's dead letter is not delivered.
    """

    name = "notifier"
    timeout_s = 15.0

    def __init__(self) -> None:
        self.topics = (*FINDINGS, *own_findings(), topics.WEBHOOKS)
        self.accepts = (*sendable(), e.WebhookTested)

    async def open(self, settings: Settings) -> None:
        """Read the registrations."""
        # Not at the top: whoever asks which topics there are needs no HTTP client.
        from streams.reactors.addresses import Addresses  # noqa: PLC0415
        from streams.reactors.delivery import Deliveries  # noqa: PLC0415
        from streams.reactors.table import Table  # noqa: PLC0415

        self._secret = secret_of(settings)
        self._deliveries: Deliveries = Deliveries(Addresses(settings.webhook_networks))
        self._webhooks: Table = Table(settings, topics.WEBHOOKS)
        await self._webhooks.open()

    async def close(self) -> None:
        """Disconnect."""
        await self._webhooks.close()
        await self._deliveries.close()

    def effects(self, event: e.Event, envelope: Envelope, at: float) -> Iterator[Effect]:
        """A delivery to each webhook that wants the event."""
        if isinstance(event, e.DeadLetter) and event.fold == self.name:
            return
        for row in list(self._webhooks.rows.values()):
            webhook = row.event
            if isinstance(webhook, e.WebhookRegistered) and row.project == envelope.project:
                wanted = (
                    event.webhook_id == webhook.webhook_id
                    if isinstance(event, e.WebhookTested)
                    else row.at <= at and wants(webhook, event)
                )
                if wanted:
                    yield Effect(webhook.webhook_id, webhook.webhook_id, idempotent=webhook.idempotent)

    async def perform(self, call: Call) -> Done:
        """POST the event, signed; raises what `streams.reactors.delivery` does, or NotWanted."""
        from streams.reactors import signing  # noqa: PLC0415 - as in `open`
        from streams.reactors.delivery import judged  # noqa: PLC0415

        project, id_ = call.envelope.project, call.effect.target
        row: Row | None = self._webhooks.rows.get(f"{project}/{id_}")
        if row is None or not isinstance(row.event, e.WebhookRegistered):
            raise NotWanted(f"webhook {id_} was removed")
        webhook = row.event
        body = message(call.event, call.envelope)
        secret = signing.secret_for(self._secret, project, id_, webhook.secret_version)
        headers = [
            ("Content-Type", "application/cloudevents+json"),
            ("User-Agent", "Headwater"),
            ("Idempotency-Key", call.id),
            *signing.headers(secret, call.id, time.time(), body),
        ]
        answer = await self._deliveries.post(webhook.url, headers, body, idempotent=call.effect.idempotent)
        return Done(judged(answer))


def wants(webhook: e.WebhookRegistered, event: e.Event) -> bool:
    """Whether an event passes a webhook's filters; a filter on what an event does not have lets it pass."""
    if type(event).__name__ not in (webhook.types or _OURS):
        return False
    least, severity = webhook.severity, getattr(event, "severity", None)
    if least and severity in _SEVERITIES and _SEVERITIES.index(severity) < _SEVERITIES.index(least):
        return False
    component = getattr(event, "component", None)
    if not webhook.components or not isinstance(component, str):
        return True
    return component.startswith(tuple(webhook.components))


def message(event: e.Event, envelope: Envelope) -> bytes:
    """The event as a CloudEvent in JSON (structured mode), as POST /v1/events takes it."""
    attributes = {
        "specversion": "1.0",
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "time": format_time(envelope.time),
        "subject": envelope.subject,
        "project": envelope.project,
        "correlationid": envelope.correlation_id,
        "causationid": envelope.causation_id,
        "traceparent": envelope.traceparent,
        "datacontenttype": "application/json",
    }
    known = {name: value for name, value in attributes.items() if value is not None}
    return orjson.dumps(known | {"data": orjson.Fragment(event_json(event))})
