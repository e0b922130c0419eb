"""The one reader that all streams of a process share. It runs while there are any, and a little longer.

One Kafka client for each stream was measured and refused: ten take what a hundred take here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextvars import Context

import orjson
import structlog
from aiokafka.errors import KafkaError
from prometheus_client import Gauge

from projections.access import QuotaExceeded
from projections.api.events import item_of
from projections.events import Events
from projections.view import Entry, Offsets, Place
from schemas.codec import Record
from schemas.errors import BrokerUnavailable, HeadwaterError, OffsetOutOfRange
from streams.codec import codec_of
from streams.following.reading import Turns
from streams.following.ring import Item, Ring
from streams.settings import Settings
from streams.supervision.metrics import REGISTRY
from streams.views.positions_kafka import KafkaOffsets
from streams.views.source import Decoder, Source

MOST_STREAMS, MOST_OF_ONE_KEY = 200, 100
READY_S = 5.0
IDLE_S = 15.0
RECENT_S, RECENT_RECORDS = 15.0, 1_000
"""So far back the reader begins, and in no place further than that: clients that come back after a
restart of ours need no reader of their own."""
BATCH_RECORDS = 500
DECODED_AT_ONCE = 50
"""Records decoded before others of this process have their turn: 3 ms."""
WAIT_MS = 500
FIRST_PACE_S, PACE_A_STREAM_S, LONGEST_PACE_S = 0.02, 0.0003, 0.05
"""Rests after a batch: a fetch of all partitions takes 3 ms of CPU, and to wake a stream takes 0.1, however
little there is for it. What comes after a pause is not held up."""
RETRY_S = 0.5

log = structlog.get_logger()
_STREAMS = Gauge("headwater_event_streams", "Open event streams.", registry=REGISTRY)


class TooManyStreams(HeadwaterError):
    """This process has as many open streams as it takes, or takes none any more."""

    category = "TEMPORARY"


class Feed:
    """Reads the topics of the view `events` to their ends, and keeps the last events in its ring.

    `ring` is None until the reader is at work; another one means that the log could not give what came
    next, and that each stream has to find its place anew.
    """

    def __init__(self, settings: Settings, offsets: KafkaOffsets) -> None:
        self.settings = settings
        self.offsets = offsets
        self.topics = tuple(topic.name for topic in Events().topics)
        self.ring: Ring | None = None
        self.stopping = asyncio.Event()
        self.turns = Turns(self._tell)
        self._open: Counter[str] = Counter()
        self._left_at = 0.0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._decoder: Decoder | None = None
        self._why = ""

    @contextlib.contextmanager
    def entered(self, key: str) -> Iterator[None]:
        """While a stream of the key is open. Raises TooManyStreams, QuotaExceeded."""
        if self.stopping.is_set():
            raise TooManyStreams("this server is stopping", hint="try again, it may be back")
        if self._open.total() >= MOST_STREAMS:
            raise TooManyStreams(f"{MOST_STREAMS} streams are open here", hint="try again later")
        if self._open[key] >= MOST_OF_ONE_KEY:
            raise QuotaExceeded(
                f"this key has {MOST_OF_ONE_KEY} streams open", hint="close one of them", retry_after_s=1
            )
        self._open[key] += 1
        _STREAMS.inc()
        try:
            yield
        finally:
            self._open[key] -= 1
            _STREAMS.dec()
            self._left_at = time.monotonic()

    async def ready(self) -> Ring:
        """The ring, once the reader has come to the log's end. Raises BrokerUnavailable where it does not in time."""
        if self._task is None or self._task.done():
            # In a context of its own: it is not the work of the request that it begins with.
            self._task = asyncio.create_task(self._run(), name="feed", context=Context())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                while self.ring is None:
                    await self._news.wait()
        if self.ring is None:
            raise BrokerUnavailable(
                f"events cannot be read from Kafka at {self.settings.bootstrap} now{self._why}",
                hint="see `headwater status`",
            )
        return self.ring

    async def news(self, patience_s: float) -> None:
        """Wait until something happened, but no longer than so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._news.wait()

    def source(self, places: Iterable[Place], **options: int) -> Source:
        """A reader of some places."""
        return Source(
            self.settings, places, reader="the stream", hint="follow anew, without an id", **options
        )

    async def items(self, records: Sequence[Record]) -> list[Item]:
        """Records as items; what is no event, and replays for a fold, are left out."""
        assert self._decoder is not None
        await self._decoder.learn(records)
        found: list[Item] = []
        for at in range(0, len(records), DECODED_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            entries, _ = self._decoder.entries(records[at : at + DECODED_AT_ONCE])
            found += [_item(entry) for entry in entries if entry.envelope.replay_of is None]
        return found

    def stop(self) -> None:
        """End all streams."""
        self.stopping.set()
        self._tell()

    async def close(self) -> None:
        """Stop reading."""
        self.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _idle(self) -> bool:
        return not self._open.total() and time.monotonic() - self._left_at > IDLE_S

    async def _run(self) -> None:
        """Read, and begin anew what fails in passing, until nobody follows any more."""
        try:
            while not self._idle():
                try:
                    await self._session()
                except OffsetOutOfRange as error:
                    log.warning("feed.begins_anew", why=str(error))
                    self.ring = None
                except (KafkaError, OSError, HeadwaterError) as error:
                    self._why = f": {error}"
                    log.warning("feed.retry", why=str(error), in_s=RETRY_S)
                    await asyncio.sleep(RETRY_S)
                except Exception:  # streams that stay open and get nothing would be worse
                    log.exception("feed.failed", in_s=RETRY_S)
                    await asyncio.sleep(RETRY_S)
        finally:
            self.ring = None

    async def _session(self) -> None:
        if self._decoder is None:
            self._decoder = Decoder(await codec_of(self.settings), keep_bytes=0)
        begin = self.ring.position if self.ring is not None else await self._recent()
        source = self.source(begin, batch_records=BATCH_RECORDS, wait_ms=WAIT_MS)
        try:
            goal = await source.open(begin, capped=self.ring is None)
            ring = self.ring if self.ring is not None else Ring(dict(source.position))
            log.info("feed.follows", lag=source.lag)
            while not self._idle():
                batch = await source.batch()
                if batch.end:
                    ring.add(await self.items(batch.records), batch.end)
                if self.ring is None and all(ring.position[place] >= end for place, end in goal.items()):
                    self.ring, self._why = ring, ""
                    self._tell()
                elif batch.end:
                    self._tell()
                    await asyncio.sleep(
                        min(FIRST_PACE_S + PACE_A_STREAM_S * self._open.total(), LONGEST_PACE_S)
                    )
        finally:
            await source.close()

    async def _recent(self) -> Offsets:
        """Where the last seconds begin."""
        starts, ends = await self.offsets.starts(self.topics), await self.offsets.ends(self.topics)
        since = await self.offsets.since(self.topics, int((time.time() - RECENT_S) * 1000))
        return {p: max(start, since[p], ends[p] - RECENT_RECORDS) for p, start in starts.items()}


def _item(entry: Entry) -> Item:
    it = item_of(entry)
    message = b"event: %b\ndata: %b\n" % (it["type"].encode(), orjson.dumps(it))
    return Item(
        (entry.topic, entry.partition), entry.offset,
        it["project"], it["type"], it["key"], it["correlation_id"], it["producer_key"], message,
    )  # fmt: skip
