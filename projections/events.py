"""Every event, by what it is asked for; keyed topics are left out, they repeat what raw ones say."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Column, Connection, Index, MetaData, Table

from projections.columns import TEXT
from projections.merging import Row, keep_first
from projections.recorded import event_json, recorded, recorded_columns
from projections.view import Entry, Tables, View
from schemas.catalog import topics


class Events(View):
    """One row an event: of an event delivered twice, the one at the smaller position stays."""

    name = "events"
    about = "every raw and derived event"
    version = 2

    def __init__(self) -> None:
        self.topics = tuple(t for t in topics().values() if t.kind in ("raw", "derived"))

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """Events by id; indexed by time, also with correlation id, topic, type or key, and by position."""
        table = Table(
            f"events{suffix}",
            metadata,
            *recorded_columns(),
            Column("type", TEXT, nullable=False),
            Column("key", TEXT, nullable=False),
            Column("subject", TEXT),
            Column("traceparent", TEXT),
            Column("clock", TEXT, nullable=False),
            Column("producer_key", TEXT),
            Column("data", TEXT, nullable=False),
        )
        c = table.c
        known = c.correlation_id.is_not(None)
        Index(None, c.project, c.correlation_id, c.time, sqlite_where=known, postgresql_where=known)
        Index(None, c.project, c.time)
        Index(None, c.project, c.topic, c.time)
        Index(None, c.project, c.type, c.time)
        Index(None, c.project, c.key, c.time)
        Index(None, c.topic, c.partition, c.offset)
        return {"events": table}

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Insert events that are not there yet."""
        keep_first(connection, tables["events"], [row_of(entry) for entry in batch])


def row_of(entry: Entry) -> Row:
    """An event's row; `data` is JSON."""
    return recorded(entry) | {
        "type": entry.envelope.type,
        "key": entry.key,
        "subject": entry.envelope.subject,
        "traceparent": entry.envelope.traceparent,
        "clock": entry.envelope.clock,
        "producer_key": entry.producer_key,
        "data": event_json(entry.event),
    }
