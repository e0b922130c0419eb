"""The items of one request on their way into the log: each is checked, sent, and answered for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import Request

from projections.access import Caller, Forbidden
from projections.position import encode
from schemas.errors import HeadwaterError
from streams.gateway.items import outgoing
from streams.gateway.outcomes import Accepted, Refused, problem_of
from streams.producing.budget import Budget
from streams.producing.outgoing import Position, Prepared
from streams.producing.producer import Producer, Unacknowledged

_TURN = 32
"""Items after which other requests get a turn: 2 to 4 ms of work."""


@dataclass
class Batch:
    """Items on their way: each has a place in `outcomes`; those well so far are in `sent` as well."""

    path: str
    outcomes: list[Accepted | Refused | None]
    single: bool
    sent: list[Prepared] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    warnings: list[list[str]] = field(default_factory=list)

    def refuse(self, index: int, error: HeadwaterError, id_: str | None = None) -> None:
        """Say why an item is not in the log."""
        self.outcomes[index] = Refused(
            index=index, id=id_, problem=problem_of(error, self.path, index, single=self.single)
        )

    def accept(self, place: int, position: Position) -> None:
        """Say where the event is that was sent in this place."""
        index = self.places[place]
        self.outcomes[index] = Accepted(
            index=index,
            id=self.sent[place].id,
            **position._asdict(),
            position=encode({position.topic: {position.partition: position.offset + 1}}),
            warnings=self.warnings[place],
        )


async def check(body: object, caller: Caller, request: Request, producer: Producer) -> Batch:
    """Check every item. Bad ones are refused, and change nothing."""
    values = body if isinstance(body, list) else [body]
    batch = Batch(request.url.path, [None] * len(values), single=not isinstance(body, list))
    for index, value in enumerate(values):
        if index % _TURN == _TURN - 1:
            await asyncio.sleep(0)
        try:
            item, warnings = outgoing(value, caller, request.state.correlation_id, request.state.traceparent)
            prepared = await producer.prepare(item)
        except HeadwaterError as error:
            if isinstance(error, Forbidden):
                request.state.refused = error.reason
            batch.refuse(index, error, _id_of(value))
            continue
        batch.sent.append(prepared)
        batch.places.append(index)
        batch.warnings.append(warnings)
    return batch


async def send(batch: Batch, producer: Producer, share: Budget) -> list[Accepted | Refused]:
    """Write the good items, within the key's share of what may be under way; say what came of each item."""
    positions: Sequence[Position | None]
    failure: HeadwaterError | None = None
    try:
        positions = await producer.send(batch.sent, share)
    except Unacknowledged as error:
        positions, failure = error.positions, error
    for place, position in enumerate(positions):
        if place % _TURN == _TURN - 1:
            await asyncio.sleep(0)
        if position is not None:
            batch.accept(place, position)
        else:
            assert failure is not None
            batch.refuse(batch.places[place], failure, batch.sent[place].id)
    outcomes = [o for o in batch.outcomes if o is not None]
    assert len(outcomes) == len(batch.outcomes)
    return outcomes


def _id_of(value: object) -> str | None:
    given = value.get("id") if isinstance(value, dict) else None
    return given if isinstance(given, str) else None
