"""Ticks in the log: time that the folds of a partition were told of."""

from __future__ import annotations

from collections import deque

from schemas import topics
from schemas.codec import Codec
from schemas.envelope import Envelope, derived_id, to_headers
from schemas.events import Tick
from streams.partitions.log import Log, Send


def tick_send(tick: Tick, codec: Codec) -> Send:
    """The record of a tick."""
    envelope = Envelope(
        id=derived_id(tick.topic, tick.partition, repr(tick.at)),
        source="headwater/clock",
        type="Tick",
        time=tick.at,
    )
    key = f"{tick.topic}/{tick.partition}".encode()
    return Send(topics.ticks(tick.topic), key, codec.encode(tick), to_headers(envelope), tick.partition)


async def ticks_of(
    source: Log, codec: Codec, topic: str, partition: int, start: int, after: float, position: int
) -> tuple[deque[Tick], int]:
    """Ticks recorded from offset `start` on, later than `after` and not beyond `position`; and where to go on.

    Whoever asks for another worker's may be behind him: what is beyond his position is read again.
    """
    name = topics.ticks(topic)
    first, end = await source.bounds(name, partition)
    ticks: deque[Tick] = deque()
    on: int | None = None
    async for batch in source.read(name, partition, max(first, start), end):
        await codec.learn(batch)
        for record in batch:
            tick = codec.decode(record.value)
            assert isinstance(tick, Tick)
            while ticks and ticks[-1].after_offset > tick.after_offset:
                ticks.pop()  # the group's position was set back: what came of these is void
            if tick.after_offset > position:
                on = record.offset if on is None else on
            elif tick.at > after:
                ticks.append(tick)
    return ticks, end if on is None else on
