"""What every row that stands for one event has: who, when, why and where in the log."""

from __future__ import annotations

import base64
from typing import Any

import orjson
from pydantic import BaseModel
from sqlalchemy import Column

from projections.columns import FLOAT, INTEGER, TEXT
from projections.view import Entry
from schemas.events import Event


def recorded_columns() -> list[Column[Any]]:
    """Columns of an event's row; the first three are its name, and the primary key."""
    return [
        Column("project", TEXT, primary_key=True),
        Column("source", TEXT, primary_key=True),
        Column("id", TEXT, primary_key=True),
        Column("topic", TEXT, nullable=False),
        Column("partition", INTEGER, nullable=False),
        Column("offset", INTEGER, nullable=False),
        Column("time", FLOAT, nullable=False),
        Column("correlation_id", TEXT),
        Column("causation_id", TEXT),
    ]


def recorded(entry: Entry) -> dict[str, Any]:
    """The values of those columns."""
    e = entry.envelope
    return {
        "project": e.project,
        "source": e.source,
        "id": e.id,
        "topic": entry.topic,
        "partition": entry.partition,
        "offset": entry.offset,
        "time": entry.time,
        "correlation_id": e.correlation_id,
        "causation_id": e.causation_id,
    }


def event_json(event: Event) -> str:
    """The event's fields as JSON; bytes are base64."""
    return orjson.dumps(event.__dict__, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()


def base64_text(value: bytes) -> str:
    """Bytes as base64 (RFC 4648)."""
    return base64.b64encode(value).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64_text(value)
    if isinstance(value, BaseModel):
        return value.__dict__
    if isinstance(value, int):
        return float(value)  # larger than 64 bits
    raise TypeError(f"no JSON for {type(value).__name__}")
