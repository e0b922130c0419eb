"""Dead letters as rows, read from the log itself: they are there also when the views are not."""

from __future__ import annotations

import asyncio
from typing import Any

from schemas.envelope import format_time
from schemas.events import DeadLetter
from schemas.topics import DEAD_LETTERS
from streams.settings import Settings
from streams.tail import Filters, Range, tail


async def collect(settings: Settings, project: str | None) -> list[dict[str, Any]]:
    """Every dead letter, oldest first, by where its record was. Raises BrokerUnavailable."""
    rows = []
    filters = Filters(types=frozenset({DeadLetter.__name__}), project=project)
    async for shown in tail(settings, [DEAD_LETTERS.name], filters, Range(follow=False), asyncio.Event()):
        if shown.decoded is None or not isinstance(shown.decoded.event, DeadLetter):
            continue
        letter = shown.decoded.event
        rows.append(
            {
                "topic": letter.topic,
                "partition": letter.partition,
                "offset": letter.offset,
                "fold": letter.fold,
                "error": letter.error_type,
                "message": letter.error_message,
                "project": shown.decoded.envelope.project,
                "time": format_time(shown.decoded.envelope.time),
            }
        )
    return sorted(rows, key=lambda row: str(row["time"]))
