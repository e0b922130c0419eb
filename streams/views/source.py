"""What a view or a stream reads: partitions assigned by hand, from offsets that somebody remembers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from threading import Lock
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from msgspec.structs import astuple

from projections.view import Entry, Offsets, Place, View
from schemas.codec import Codec, Record
from schemas.envelope import producer_key
from schemas.errors import BrokerUnavailable, ConfigurationError, DecodeError, OffsetOutOfRange
from schemas.topics import Topic
from streams.admin import TopicSpec, admin_client, existing, missing_hint
from streams.folding.engine import CLAMP_S
from streams.kafka import client_options, close, connect, records_of
from streams.settings import Settings

DEADLINE_S = 30.0
BATCH_RECORDS = 5_000
KEEP_BYTES = 16 * 1024 * 1024
POLL_MS = 250
SILENT_S = 20.0
"""A broker that has answered no fetch for so long is given up: the client is made anew."""


class Batch(NamedTuple):
    """Records, and for each place that moved the next offset before and after them.

    Before a place's first batch there is none: None.
    """

    records: list[Record]
    start: dict[Place, int | None]
    end: dict[Place, int]


class Undecodable(NamedTuple):
    """A record that is no event; the folds' runner writes its dead letter."""

    record: Record
    error: DecodeError


async def partition_counts(settings: Settings, topics: Iterable[Topic]) -> dict[str, int]:
    """Partitions of each topic. Raises ConfigurationError where one is missing, BrokerUnavailable."""
    specs = [TopicSpec(topic.name, 0, {}) for topic in topics]
    async with admin_client(settings) as client:
        counts = await existing(client, settings, specs)
    missing = [spec.name for spec in specs if spec.name not in counts]
    if missing:
        raise ConfigurationError(f"topics are missing: {', '.join(missing)}", hint=missing_hint(settings))
    return counts


def view_source(settings: Settings, view: View, counts: dict[str, int]) -> Source:
    """What a view reads; `counts` are its topics' partitions."""
    places = [(topic.name, p) for topic in view.topics for p in range(counts[topic.name])]
    hint = f"`headwater views rebuild {view.name}` makes it anew from what the log has"
    return Source(settings, places, reader=f"view {view.name}", hint=hint)


class Source:
    """Reads committed records of places; one consumer without a group.

    `reader` and `hint` say who it is, and what to do, where the log does not have what comes next.
    A batch has at most `batch_records`; Kafka answers after `wait_ms` at the latest.
    """

    def __init__(
        self,
        settings: Settings,
        places: Iterable[Place],
        *,
        reader: str,
        hint: str,
        batch_records: int = BATCH_RECORDS,
        fetch_bytes: int = 8 * 1024 * 1024,
        wait_ms: int = 2_000,
    ) -> None:
        self.position: dict[Place, int] = {}
        self._settings = settings
        self._reader, self._hint = reader, hint
        self._batch_records = batch_records
        self._places = {TopicPartition(settings.named(topic), p): (topic, p) for topic, p in places}
        self._consumer = AIOKafkaConsumer(
            **client_options(settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            # Kafka gives one batch even where it is larger; six views' buffers add up.
            max_partition_fetch_bytes=fetch_bytes // 8,
            # Nothing is paused, so a longer wait only means fewer empty answers when idle; but a partition
            # whose records wait here for 0.1 s is not asked about again before the wait is over.
            fetch_max_wait_ms=wait_ms,
            fetch_max_bytes=fetch_bytes,
            retry_backoff_ms=500,
        )
        self._ends: dict[Place, int] = {}
        self._begun: set[Place] = set()
        self._newest = 0
        self.silent_s = 0.0
        """Seconds waited in vain since Kafka last answered a fetch."""

    async def open(self, offsets: Offsets, *, capped: bool = False) -> dict[Place, int]:
        """Connect and go to `offsets`; a place without one is read from the log's start. Returns the log's ends.

        With `capped`, a place whose offset cannot be reached yet, because a transaction is open before
        it, is read from where it can be. Raises OffsetOutOfRange where the log no longer has, or never
        had, what comes next.
        """
        await connect(self._settings, self._consumer, DEADLINE_S)
        self._consumer.assign(list(self._places))
        starts = await self._consumer.beginning_offsets(list(self._places))
        await self.ends()
        for tp, place in self._places.items():
            offset = offsets.get(place, starts[tp])
            if capped:
                offset = min(offset, self._ends[place])
            if not starts[tp] <= offset <= self._ends[place]:
                raise self._out_of_range(place, offset, f"goes from {starts[tp]} to {self._ends[place]}")
            self._consumer.seek(tp, offset)
            self.position[place] = offset
        self._begun = set(offsets)
        return self._ends

    async def batch(self) -> Batch:
        """What came since the last call, within a quarter of a second; empty where nothing did.

        Raises OffsetOutOfRange, BrokerUnavailable.
        """
        started = time.monotonic()
        try:
            polled = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=self._batch_records)
        except OffsetOutOfRangeError as error:
            for tp, offset in error.args[0].items():
                raise self._out_of_range(self._places[tp], offset, "no longer holds it") from error
            raise
        self._listen(bool(polled), time.monotonic() - started)
        records = records_of(chain.from_iterable(polled.values()), self._settings.namespace)
        start: dict[Place, int | None] = {}
        end: dict[Place, int] = {}
        for tp, place in self._places.items():
            # Not the last record's offset: markers of transactions take offsets too.
            position = await self._consumer.position(tp)
            if position != self.position[place]:
                start[place], end[place] = self.position[place] if place in self._begun else None, position
        self.position.update(end)
        self._begun.update(end)
        return Batch(records, start, end)

    async def ends(self) -> dict[Place, int]:
        """The ends of the log that a reader of committed records can reach now."""
        ends = await self._consumer.end_offsets(list(self._places))
        self._ends = {place: ends[tp] for tp, place in self._places.items()}
        return self._ends

    @property
    def lag(self) -> int:
        """Offsets up to the log's end, open transactions included, all places together."""
        total = 0
        for tp, place in self._places.items():
            end = self._consumer.highwater(tp)
            total += max(0, (self._ends[place] if end is None else end) - self.position[place])
        return total

    async def close(self) -> None:
        """Disconnect."""
        await close(self._consumer)

    def _listen(self, polled: bool, waited_s: float) -> None:
        """Note whether Kafka still answers: aiokafka retries in silence while it is away."""
        newest = max((self._consumer.last_poll_timestamp(tp) or 0 for tp in self._places), default=0)
        self.silent_s = 0.0 if polled or newest != self._newest else self.silent_s + waited_s
        self._newest = newest
        if self.silent_s > SILENT_S:
            raise BrokerUnavailable(
                f"Kafka has not answered for {self.silent_s:.0f} s", hint="see the broker's log"
            )

    def _out_of_range(self, place: Place, offset: int, what: str) -> OffsetOutOfRange:
        topic, partition = place
        return OffsetOutOfRange(
            f"{self._reader} stands at offset {offset} of {topic}/{partition}, and the log {what}",
            hint=self._hint,
        )


class Decoder:
    """Decodes a record once for all views that are about as far: it keeps the last entries.

    Records that are no events are given out, too, to each view that meets them.
    """

    def __init__(self, codec: Codec, keep_bytes: int = KEEP_BYTES) -> None:
        self._codec = codec
        self._keep_bytes = keep_bytes
        self._kept: dict[tuple[str, int, int], Entry] = {}
        self._sizes: deque[tuple[tuple[str, int, int], int]] = deque()
        self._bytes = 0
        # Views get a batch at the same time: the second waits and finds it decoded.
        self._lock = Lock()

    async def learn(self, records: Sequence[Record]) -> None:
        """Before `entries`: see Codec."""
        await self._codec.learn(records)

    def entries(self, records: Iterable[Record]) -> tuple[list[Entry], list[Undecodable]]:
        """Records as entries, and those that are no events; called from any thread."""
        entries, bad = [], []
        with self._lock:
            for record in records:
                place = (record.topic, record.partition, record.offset)
                entry = self._kept.get(place)
                if entry is None:
                    try:
                        entry = self._decoded(record)
                    except DecodeError as error:
                        bad.append(Undecodable(record, error))
                        continue
                    self._keep(place, entry, 500 + len(record.value or b""))
                entries.append(entry)
        return entries, bad

    def _decoded(self, record: Record) -> Entry:
        key, event, envelope = astuple(self._codec.decode_record(record))
        at = envelope.time
        if envelope.clock == "live":  # the runner's rule: no live event is far ahead of the broker
            at = min(at, record.timestamp + CLAMP_S)
        key = key.removeprefix(f"{envelope.project}/")
        by = producer_key(record.headers)
        return Entry(record.topic, record.partition, record.offset, key, at, event, envelope, by)

    def _keep(self, place: tuple[str, int, int], entry: Entry, size: int) -> None:
        self._kept[place] = entry
        self._sizes.append((place, size))
        self._bytes += size
        while self._bytes > self._keep_bytes:
            oldest, freed = self._sizes.popleft()
            del self._kept[oldest]
            self._bytes -= freed
