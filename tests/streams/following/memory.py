"""A log in memory, and a feed that reads it when it is told to: streams over it without Kafka.

What is real: ring, streams, turns. What is not: the clients that read; where batches end is the test's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from projections.view import Offsets, Place
from schemas.errors import OffsetOutOfRange
from streams.following.feed import Feed
from streams.following.ring import Item, Ring
from streams.settings import Settings
from streams.views.source import Batch

PLACES: tuple[Place, ...] = (("anomalies", 0), ("anomalies", 1), ("agent.runs", 0))


def item(place: Place, offset: int, **about: Any) -> Item:
    """An event whose message says where it stands."""
    fields: dict[str, Any] = {
        "project": "p",
        "type": "T",
        "key": "k",
        "correlation_id": None,
        "producer_key": None,
        "message": b"data: %b/%d/%d\n" % (place[0].encode(), place[1], offset),
    }
    return Item(place, offset, **fields | about)


class MemoryLog:
    """Events by place; offsets that hold none are those of transactions' markers."""

    def __init__(self) -> None:
        self.starts: dict[Place, int] = dict.fromkeys(PLACES, 0)
        self.ends: dict[Place, int] = dict.fromkeys(PLACES, 0)
        self.items: dict[Place, list[Item]] = {place: [] for place in PLACES}
        self.open_at: dict[Place, int] = {}
        """Where transactions are open; what comes after is not read."""

    def stable(self, place: Place) -> int:
        """The end for readers of committed records."""
        return self.open_at.get(place, self.ends[place])

    def append(self, place: Place, *, markers: int = 0, **about: Any) -> Item:
        """Add an event, and so many offsets without one."""
        made = item(place, self.ends[place], **about)
        self.items[place].append(made)
        self.ends[place] += 1 + markers
        return made

    def forget(self, place: Place, below: int) -> None:
        """The log's retention."""
        self.starts[place] = max(self.starts[place], below)

    def read(self, position: dict[Place, int], most: int, places: Iterable[Place]) -> Batch:
        """Up to so many events after a position, which moves; one place after the other, as Kafka gives them."""
        found: list[Any] = []
        start, end = dict(position), dict(position)
        for place in places:
            if position[place] < self.starts[place]:
                raise OffsetOutOfRange(f"{place} is gone", hint="")
            whole = [i for i in self.items[place] if position[place] <= i.offset < self.stable(place)]
            new = whole[: most - len(found)]
            found += new
            if len(new) == len(whole):
                end[place] = self.stable(place)
            elif new:
                end[place] = new[-1].offset + 1
        moved = {place: o for place, o in end.items() if o > position[place]}
        position |= moved
        return Batch(found, {place: start[place] for place in moved}, moved)


class MemoryOffsets:
    """What Kafka says of the log, as `streams.views.positions_kafka.KafkaOffsets` gives it."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def starts(self, names: Iterable[str]) -> dict[Place, int]:
        """See KafkaOffsets."""
        return {place: o for place, o in self._log.starts.items() if place[0] in set(names)}

    async def ends(self, names: Iterable[str]) -> dict[Place, int]:
        """See KafkaOffsets."""
        return {place: o for place, o in self._log.ends.items() if place[0] in set(names)}


class MemorySource:
    """A reader of one's own."""

    def __init__(self, log: MemoryLog, places: Iterable[Place], chance: random.Random) -> None:
        self._log, self._places, self._chance = log, list(places), chance
        self.position: dict[Place, int] = {}
        self.closed = False

    async def open(self, offsets: Offsets, *, capped: bool) -> dict[Place, int]:
        """See Source."""
        assert capped
        await asyncio.sleep(0)
        self.position = {place: min(offsets[place], self._log.stable(place)) for place in self._places}
        return self._log.ends

    async def batch(self) -> Batch:
        """See Source."""
        await asyncio.sleep(0.001 * self._chance.random())
        self._chance.shuffle(self._places)
        return self._log.read(self.position, self._chance.randint(1, 4), self._places)

    async def close(self) -> None:
        """See Source."""
        self.closed = True


class MemoryFeed(Feed):
    """Reads when it is told to."""

    def __init__(self, log: MemoryLog, chance: random.Random, ring_bytes: int) -> None:
        super().__init__(Settings(data=Path("nowhere")), MemoryOffsets(log))  # type: ignore[arg-type]
        self.log, self.chance, self.ring_bytes = log, chance, ring_bytes
        self.sources: list[MemorySource] = []
        self.ring: Ring | None = Ring(dict(log.ends), ring_bytes)

    async def ready(self) -> Ring:
        """See Feed."""
        assert self.ring is not None
        return self.ring

    def source(self, places: Iterable[Place], **options: int) -> Any:
        """See Feed."""
        self.sources.append(MemorySource(self.log, places, self.chance))
        return self.sources[-1]

    async def items(self, records: Any) -> list[Item]:
        """See Feed: they are items already."""
        await asyncio.sleep(0)
        return list(records)

    def read(self, most: int) -> None:
        """One batch, as the feed's own reader gets it."""
        assert self.ring is not None
        position = dict(self.ring.position)
        places = list(PLACES)
        self.chance.shuffle(places)
        batch = self.log.read(position, most, places)
        if batch.end:
            self.ring.add(batch.records, batch.end)  # type: ignore[arg-type]
            self._tell()

    def begin_anew(self) -> None:
        """Another ring, at the log's end: what the feed does after what it needed was gone."""
        self.ring = Ring({place: self.log.stable(place) for place in PLACES}, self.ring_bytes)
        self._tell()

    async def close(self) -> None:
        """Nothing runs."""
