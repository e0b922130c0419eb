"""Follows topics as a reader of its own: committed records only, decoded, filtered, in no group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from schemas import catalog
from schemas.codec import Codec, Decoded, Record, decode_key
from schemas.errors import BrokerUnavailable, ConfigurationError, DecodeError, OffsetOutOfRange
from streams.admin import TopicSpec, admin_client, existing, missing_hint
from streams.codec import codec_of
from streams.kafka import COMMAND_S, client_options, close, connect, records_of
from streams.settings import Settings

LOST_S = 60.0
_POLL_MS = 300


@dataclass(frozen=True)
class Filters:
    """What to show; None and the empty set mean everything. `key` is with or without its project."""

    types: frozenset[str] = frozenset()
    key: str | None = None
    project: str | None = None
    correlation_id: str | None = None

    def check(self) -> None:
        """Raise ConfigurationError where an event type is unknown."""
        for name in sorted(self.types - catalog.event_types().keys()):
            raise ConfigurationError(
                f"there is no event type {name}", hint=f"there are: {', '.join(catalog.event_types())}"
            )

    def admit(self, decoded: Decoded) -> bool:
        """Whether an event is to be shown."""
        envelope = decoded.envelope
        return (
            (not self.types or envelope.type in self.types)
            and (self.key is None or self.key in (decoded.key, plain_key(decoded)))
            and (self.project is None or self.project == envelope.project)
            and (self.correlation_id is None or self.correlation_id == envelope.correlation_id)
        )


class Shown(NamedTuple):
    """A record and its event, or why it has none."""

    record: Record
    decoded: Decoded | None
    error: DecodeError | None = None


@dataclass(frozen=True)
class Range:
    """Where to begin and end. `since`: broker's time in seconds since 1970, instead of the end of the log."""

    since: float | None = None
    from_beginning: bool = False
    follow: bool = True


def plain_key(decoded: Decoded) -> str:
    """The record's key without the project that producers put before it."""
    return decoded.key.removeprefix(f"{decoded.envelope.project}/")


def choose(names: Sequence[str]) -> list[str]:
    """The topics asked for, or all; raises ConfigurationError for one that is not declared."""
    for name in names:
        if name not in catalog.topics():
            raise ConfigurationError(
                f"there is no topic {name}", hint=f"there are: {', '.join(catalog.topics())}"
            )
    return list(dict.fromkeys(names)) or list(catalog.topics())


async def tail(
    settings: Settings, names: Sequence[str], filters: Filters, where: Range, stop: asyncio.Event
) -> AsyncIterator[Shown]:
    """Records of the topics as they come, those of one fetch by the broker's time; undecodable ones too.

    Ends when `stop` is set, or without `follow` at what was the end of the log at the start. Raises
    BrokerUnavailable, ConfigurationError for unknown topics and types, and as `streams.codec.codec_of`.
    """
    filters.check()
    wanted = choose(names)
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        group_id=None,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=2 * settings.max_record_bytes,
        max_poll_records=2000,
    )
    try:
        await connect(settings, consumer, COMMAND_S)
        codec = await codec_of(settings)
        places = await _places(settings, wanted)
        consumer.assign(places)
        ends = await _seek(consumer, places, where)
        async for batch in _batches(consumer, ends, follow=where.follow, stop=stop):
            records = records_of(batch, settings.namespace)
            await codec.learn(records)
            for record in sorted(records, key=_by_time):
                shown = _decode(codec, record)
                if shown.decoded is None or filters.admit(shown.decoded):
                    yield shown
    finally:
        await close(consumer)


async def _places(settings: Settings, names: Sequence[str]) -> list[TopicPartition]:
    async with admin_client(settings) as client:
        there = await existing(client, settings, [TopicSpec(name, 0, {}) for name in names])
    for name in names:
        if name not in there:
            raise ConfigurationError(
                f"Kafka at {settings.bootstrap} has no topic {settings.named(name)}",
                hint=missing_hint(settings),
            )
    return [TopicPartition(settings.named(n), p) for n in names for p in range(there[n])]


async def _seek(
    consumer: AIOKafkaConsumer, places: list[TopicPartition], where: Range
) -> dict[TopicPartition, int]:
    """Put every partition where the range begins; returns the ends of this moment."""
    ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
    if where.since is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(places, int(where.since * 1000)))
        starts = {tp: ends[tp] if found[tp] is None else found[tp].offset for tp in places}
    elif where.from_beginning or not where.follow:
        starts = await consumer.beginning_offsets(places)
    else:
        starts = ends
    for tp in places:
        consumer.seek(tp, starts[tp])
    return ends


async def _batches(
    consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], *, follow: bool, stop: asyncio.Event
) -> AsyncIterator[list[object]]:
    loop = asyncio.get_running_loop()
    well = loop.time()
    open_ends = dict(ends)
    while not stop.is_set():
        if not follow:
            open_ends = {tp: end for tp, end in open_ends.items() if await consumer.position(tp) < end}
            if not open_ends:
                return
        try:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS)
            well = loop.time()
        except OffsetOutOfRangeError as error:
            raise OffsetOutOfRange(
                f"records were deleted before they could be shown: {error}", hint="begin again"
            ) from error
        except KafkaError as error:
            if loop.time() - well > LOST_S:
                raise BrokerUnavailable(
                    f"Kafka went away: {error!r}", hint="see `headwater status`"
                ) from error
            await asyncio.sleep(0.5)
            continue
        batch = [m for tp, messages in fetched.items() for m in messages if follow or m.offset < ends[tp]]
        if batch:
            yield batch


def _by_time(record: Record) -> float:
    return record.timestamp


def _decode(codec: Codec, record: Record) -> Shown:
    try:
        return Shown(record, codec.decode_record(record))
    except DecodeError as error:
        return Shown(record, None, error)


def key_text(record: Record) -> str:
    """A record's key for a person, whatever bytes it is."""
    try:
        return decode_key(record.key)
    except DecodeError:
        return repr(record.key)
