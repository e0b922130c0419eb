"""What left its usual course: one row a finding."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Column, Connection, Index, MetaData, Table

from projections.columns import FLOAT, TEXT
from projections.merging import keep_first
from projections.recorded import recorded, recorded_columns
from projections.view import Entry, Tables, View
from schemas.events import AnomalyDetected
from schemas.topics import ANOMALIES


class Anomalies(View):
    """One row an AnomalyDetected."""

    name = "anomalies"
    about = "what left its usual course"
    topics = (ANOMALIES,)

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """Findings by event id; indexed by time, component and correlation id."""
        table = Table(
            f"anomalies{suffix}",
            metadata,
            *recorded_columns(),
            Column("component", TEXT, nullable=False),
            Column("metric", TEXT, nullable=False),
            Column("severity", TEXT, nullable=False),
            Column("detector", TEXT, nullable=False),
            Column("unit", TEXT, nullable=False),
            Column("summary", TEXT, nullable=False),
            Column("value", FLOAT, nullable=False),
            Column("expected", FLOAT, nullable=False),
            Column("score", FLOAT, nullable=False),
            Column("threshold", FLOAT, nullable=False),
        )
        c = table.c
        Index(None, c.project, c.time)
        Index(None, c.project, c.component, c.time)
        Index(None, c.project, c.correlation_id, c.time)
        return {"anomalies": table}

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Insert findings that are not there yet."""
        fields = tuple(AnomalyDetected.model_fields)
        rows = []
        for entry in batch:
            if isinstance(entry.event, AnomalyDetected):
                values = entry.event.__dict__
                rows.append(recorded(entry) | {f: values[f] for f in fields if f in tables["anomalies"].c})
        keep_first(connection, tables["anomalies"], rows)
