"""One open stream: where it stands in the log, and what its client is given next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import structlog
from aiokafka.errors import KafkaError

from projections.position import BadToken, Cursor, decode
from projections.view import Offsets, Place
from schemas.errors import BrokerUnavailable, HeadwaterError, OffsetOutOfRange, RegistryUnavailable
from streams.following.feed import Feed
from streams.following.ring import Batch, Filters, Ring, furthest, id_line, messages_after, pieces

HEARTBEAT_S = 15.0
LOOK_S = 1.0
"""So often a stream looks whether it may go on."""
RETRY_MS = 2_000
READER_OPTIONS = {"batch_records": 500, "fetch_bytes": 2 * 1024 * 1024, "wait_ms": 100}
"""Of a stream's own reader: there may be several, and each ends once it has caught up."""
PAUSE_S = 1.0

T = TypeVar("T")
Write = Callable[[bytes], Awaitable[None]]
log = structlog.get_logger()


class StreamEnded(HeadwaterError):
    """The server ends a stream; its client may resume after the last id."""


class TooSlow(StreamEnded):
    """A client does not take events as fast as they come."""


class Stalled(StreamEnded):
    """A client takes nothing at all, not even the reason."""


class ServerStops(StreamEnded):
    """The server that a stream comes from is stopping."""


class Stream:
    """Gives one client the events that it wants, each once and in the order of its partition.

    `key` is the client's API key's id; `check` raises StreamEnded where it opens nothing any more, `write`
    where the client does not take what it is given.
    """

    def __init__(
        self, feed: Feed, wanted: Filters, key: str, check: Callable[[], None], write: Write
    ) -> None:
        self._feed = feed
        self._wanted = wanted
        self._key = key
        self._check = check
        self._send = write
        self._position: Offsets = {}
        self._written_at = self._looked_at = time.monotonic()

    async def begin(self, last_event_id: str | None, since: float | None) -> None:
        """Find the stream's place: after an id, at a time, or now.

        Raises BadToken, OffsetOutOfRange where the log does not have what comes after the id,
        BrokerUnavailable.
        """
        ring = await self._feed.ready()
        followed = self._feed.topics if self._wanted.topic is None else (self._wanted.topic,)
        if last_event_id is not None:
            named = _named(decode(last_event_id), followed)
            self._position = await self._resumed(ring, named, followed)
        elif since is not None:
            self._position = await self._feed.offsets.since(followed, int(since * 1000))
        else:
            self._position = {place: o for place, o in ring.position.items() if place[0] in followed}

    async def _resumed(self, ring: Ring, named: dict[Place, int], followed: tuple[str, ...]) -> Offsets:
        """The whole position; a place that an id does not name is at its start."""
        places = {place for place in ring.position if place[0] in followed}
        if named.keys() == places and all(ring.start[p] <= o <= ring.position[p] for p, o in named.items()):
            return named
        starts, ends = await self._feed.offsets.starts(followed), await self._feed.offsets.ends(followed)
        for place, offset in named.items():
            if place not in starts:
                raise BadToken(f"topic {place[0]} has no partition {place[1]}", hint="send an id of ours")
            if not starts[place] <= offset <= ends[place]:
                raise OffsetOutOfRange(
                    f"the id stands at offset {offset} of {place[0]}/{place[1]}, and the log goes "
                    f"from {starts[place]} to {ends[place]}",
                    hint="follow anew, without an id; `GET /v1/events` has what the views know",
                )
        return starts | named

    async def run(self) -> NoReturn:
        """Write messages until the client or the server ends it. Raises HeadwaterError: the reason."""
        await self._write(b"retry: %d\n%b" % (RETRY_MS, self._id()))
        while True:
            ring = self._feed.ring
            try:
                if ring is None:
                    await self._meanwhile(self._feed.ready())
                elif ring.covers(self._position):
                    await self._follow(ring)
                else:
                    await self._catch_up()
            except (KafkaError, OSError, BrokerUnavailable, RegistryUnavailable) as error:
                log.info("stream.retry", why=str(error), in_s=PAUSE_S)
                await self._meanwhile(asyncio.sleep(PAUSE_S))

    async def _follow(self, ring: Ring) -> None:
        """Give what is in the ring, and what comes, as long as it is the feed's."""
        number = ring.after(self._position)
        while self._feed.ring is ring:
            batch = ring.get(number)
            if batch is not None:
                await self._give(batch)
                number += 1
            elif number < ring.next:
                raise TooSlow(
                    "events come faster than this client takes them", hint="resume after the last id"
                )
            else:
                await self._feed.news(LOOK_S)
                await self._look()

    async def _give(self, batch: Batch) -> None:
        if self._position is batch.start:
            for piece in pieces(batch.messages(self._wanted)):
                await self._write(piece)
            self._position = batch.end
            return
        # Read by ourselves, or named by an id: in some places we may be further than the ring.
        for piece in pieces(messages_after(Cursor(self._position), batch.items, self._wanted)):
            await self._write(piece)
        reached = furthest(self._position, batch.end)
        in_step = all(batch.end[place] == offset for place, offset in reached.items())
        self._position = batch.end if in_step else reached

    async def _catch_up(self) -> None:
        """Read the log by a reader of our own until the ring has all that follows."""
        turns = self._feed.turns
        with turns.waiting(self._key):
            while not turns.free(self._key):
                await self._feed.news(LOOK_S)
                await self._look()
        with turns.reading(self._key) as should_make_room:
            source = self._feed.source(self._position, **READER_OPTIONS)
            try:
                await self._meanwhile(source.open(self._position, capped=True))
                while not self._is_covered():
                    batch = await source.batch()
                    items = await self._feed.items(batch.records)
                    for piece in pieces(messages_after(Cursor(self._position), items, self._wanted)):
                        await self._write(piece)
                    self._position = furthest(self._position, batch.end)
                    await self._look()
                    if should_make_room():
                        break
            finally:
                await source.close()
        if not self._is_covered():
            await self._meanwhile(asyncio.sleep(PAUSE_S))

    def _is_covered(self) -> bool:
        ring = self._feed.ring
        return ring is not None and ring.covers(self._position)

    async def _write(self, piece: bytes) -> None:
        await self._send(piece)
        self._written_at = time.monotonic()
        await self._look()

    async def _look(self) -> None:
        """See whether the stream may go on; a heartbeat where it was silent. Its id saves reading again."""
        if self._feed.stopping.is_set():
            raise ServerStops("this server is stopping", hint="resume after the last id")
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        self._check()
        if now - self._written_at >= HEARTBEAT_S:
            await self._write(b": still here\n" + self._id())

    def _id(self) -> bytes:
        return id_line(
            Cursor({p: o for p, o in self._position.items() if self._wanted.topic in (None, p[0])})
        )

    async def _meanwhile(self, awaited: Awaitable[T]) -> T:
        """Wait for something that may take long, and go on looking."""
        task = asyncio.ensure_future(awaited)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
                await self._look()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})


def _named(position: dict[str, dict[int, int]], followed: tuple[str, ...]) -> dict[Place, int]:
    """The places of an id that are followed. Raises BadToken where it names none."""
    named = {(t, p): offset for t, some in position.items() if t in followed for p, offset in some.items()}
    if not named:
        raise BadToken(
            f"this id says nothing of {', '.join(followed)}",
            hint="send an id of a stream with the same topic",
        )
    return named
