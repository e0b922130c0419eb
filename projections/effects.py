"""What reactors did in the outside world, and the webhooks that findings are sent to."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from sqlalchemy import Column, Connection, Index, MetaData, Table
from sqlalchemy.types import Boolean

from projections.columns import FLOAT, INTEGER, TEXT, stamp
from projections.merging import Merger, Row, greatest, latest, least
from projections.view import Entry, Tables, View
from schemas import events as e
from schemas.topics import EFFECTS, WEBHOOKS

_ORDER = {e.EffectIntended: 0, e.EffectDeferred: 1, e.EffectCompleted: 2}
_SAID = ("detail", "error_type", "error_message", "latency_ms", "until")


class Effects(View):
    """One row an effect, which its latest event fills; and one a webhook, likewise."""

    name = "effects"
    about = "what reactors did, and the webhooks"
    topics = (EFFECTS, WEBHOOKS)

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """Effects by id, indexed by time, target, status and cause; webhooks by id."""
        effects = Table(
            f"effects{suffix}",
            metadata,
            *(Column(name, TEXT, primary_key=True) for name in ("project", "reactor", "effect_id")),
            least("first_seen", FLOAT),
            greatest("last_seen", FLOAT),
            greatest("stamp", TEXT),
            *(
                latest(n, TEXT, by="stamp")
                for n in ("target", "status", "detail", "error_type", "error_message")
            ),
            latest("attempt", INTEGER, by="stamp"),
            *(latest(n, FLOAT, by="stamp") for n in ("until", "latency_ms")),
            *(latest(n, TEXT, by="stamp") for n in ("correlation_id", "causation_id")),
        )
        c = effects.c
        Index(None, c.project, c.first_seen)
        Index(None, c.project, c.target, c.first_seen)
        Index(None, c.project, c.status, c.first_seen)
        Index(None, c.project, c.causation_id)
        webhooks = Table(
            f"webhooks{suffix}",
            metadata,
            Column("project", TEXT, primary_key=True),
            Column("webhook_id", TEXT, primary_key=True),
            least("first_seen", FLOAT),
            greatest("stamp", TEXT),
            latest("removed", Boolean(), by="stamp"),
            *(latest(n, TEXT, by="stamp") for n in ("url", "types", "severity", "components", "description")),
            latest("idempotent", Boolean(), by="stamp"),
            latest("secret_version", INTEGER, by="stamp"),
            latest("updated_at", FLOAT, by="stamp"),
        )
        return {"effects": effects, "webhooks": webhooks}

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Merge what each event says into its row: the latest word stands, so duplicates do not matter."""
        effects, webhooks = Merger(connection, tables["effects"]), Merger(connection, tables["webhooks"])
        for entry in batch:
            event, project = entry.event, entry.envelope.project
            if isinstance(event, e.EffectIntended | e.EffectDeferred | e.EffectCompleted):
                effects.add((project, event.reactor, event.effect_id), _effect(entry, event))
            elif isinstance(event, e.WebhookRegistered | e.WebhookRemoved):
                webhooks.add((project, event.webhook_id), _webhook(entry, event))
        effects.write()
        webhooks.write()


def _effect(entry: Entry, event: e.EffectIntended | e.EffectDeferred | e.EffectCompleted) -> Row:
    if isinstance(event, e.EffectCompleted):
        status: str = event.outcome
    else:
        status = "intended" if isinstance(event, e.EffectIntended) else "deferred"
    row: Row = {
        "first_seen": entry.time,
        "last_seen": entry.time,
        # Not by time: a call's intent and outcome may bear the same, where the project's clock is its data's.
        "stamp": f"{event.attempt:09d}|{_ORDER[type(event)]}|{entry.offset:020d}",
        "target": event.target,
        "status": status,
        "attempt": event.attempt,
        "correlation_id": entry.envelope.correlation_id,
        "causation_id": entry.envelope.causation_id,
    }
    return row | {name: getattr(event, name) for name in _SAID if name in type(event).model_fields}


def _webhook(entry: Entry, event: e.WebhookRegistered | e.WebhookRemoved) -> Row:
    row: Row = {
        "first_seen": entry.time,
        "updated_at": entry.time,
        "stamp": stamp(entry.time, entry.envelope.source, entry.envelope.id),
        "removed": isinstance(event, e.WebhookRemoved),
    }
    if isinstance(event, e.WebhookRemoved):
        return row
    said = event.model_dump(include={"url", "severity", "description", "idempotent", "secret_version"})
    return row | said | {n: orjson.dumps(getattr(event, n)).decode() for n in ("types", "components")}
