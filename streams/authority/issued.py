"""What a log remembers of its schema ids: which were given out, for what, by whom.

Records carry ids, so ids can never change under a log. The embedded broker's are remembered in a
file beside its log; a cluster's in a compacted topic of the namespace.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.avro_models import same_bytes
from schemas.errors import ConfigurationError
from schemas.registry import Registered, Registry
from schemas.topics import SCHEMA_IDS
from streams.kafka import COMMAND_S, client_options, connect, patiently
from streams.settings import Settings

COMMITTED = "the committed lock file"
DEADLINE_S = 30.0


class Issued(msgspec.Struct, frozen=True):
    """An id that was given out, and `by` whom: a registry's address, COMMITTED, or a package.

    `version` is 0 for a schema of somebody else's or of a package: their ids alone tell them apart, since a
    package may be locked anew, and two of its branches may each have a version 2.
    """

    subject: str
    version: int
    id: int
    by: str
    schema: dict[str, Any]

    @property
    def registered(self) -> Registered:
        """As the codec takes it."""
        return Registered(self.id, self.subject, self.version, self.schema)

    @property
    def name(self) -> str:
        """For a person; also what keys it: a (subject, version) has one id for ever."""
        return f"{self.subject} version {self.version}" if self.version else f"{self.subject} id {self.id}"


def as_issued(registry: Registry, by: str) -> list[Issued]:
    """All ids of a registry."""
    return [
        Issued(r.subject, 0 if r.package else r.version, r.id, _giver(r, by), r.definition)
        for versions in registry.versions.values()
        for r in versions
    ]


def _giver(registered: Registered, by: str) -> str:
    if registered.package is None or by != COMMITTED:
        return by
    return f"package {registered.package.partition(' ')[0]}"


def compare(
    recorded: Iterable[Issued], given: Sequence[Issued], lacking: Iterable[Registered], by: str
) -> None:
    """Raise ConfigurationError unless the ids `given` by somebody agree with the recorded ones.

    They do where no (subject, version) has another id, no id means another schema, and none of those
    that he is `lacking` was given out before.
    """
    by_name = {entry.name: entry for entry in given}
    by_id = {entry.id: entry for entry in given}
    missing = {(r.subject, r.version) for r in lacking}
    found = []
    for was in recorded:
        if (now := by_name.get(was.name)) is not None and now.id != was.id:
            found.append((was, f"gives it {now.id}"))
        elif (now := by_id.get(was.id)) is not None and not _same(was, now):
            found.append((was, f"gives that id to another {now.name}"))
        elif (was.subject, was.version) in missing:
            found.append((was, "does not have it"))
    if found:
        was, differs = found[0]
        more = f" ({len(found) - 1} more differ)" if len(found) > 1 else ""
        raise ConfigurationError(
            f"schema ids do not fit the log: {was.name} has id {was.id}, given by {was.by}; {by} {differs}{more}",
            hint=f"{_way_back(was.by, by)}: what is in the log can be read with the ids that it was written "
            "with alone; other ids need an empty HEADWATER_DATA or another HEADWATER_NAMESPACE",
        )


def _same(one: Issued, other: Issued) -> bool:
    return one.subject == other.subject and same_bytes(one.schema, other.schema)


def _way_back(recorded: str, now: str) -> str:
    if recorded == COMMITTED:
        return "unset HEADWATER_REGISTRY"
    if recorded == now:
        return "restore that registry from its backup"
    return f"set HEADWATER_REGISTRY to {recorded}"


class IssuedIds(Protocol):
    """Where the ids that were given out are remembered."""

    async def load(self) -> list[Issued]:
        """All of them; none where nothing was given out yet."""

    async def add(self, entries: Sequence[Issued]) -> None:
        """Remember more: durable when it returns. Raises ConfigurationError where they contradict."""


def issued_ids(settings: Settings) -> IssuedIds:
    """Those of this instance's log."""
    return _File(settings) if settings.embedded else _Topic(settings)


def _new(recorded: list[Issued], entries: Sequence[Issued]) -> list[Issued]:
    for by in {entry.by for entry in entries}:
        compare(recorded, entries, (), by)
    names = {entry.name for entry in recorded}
    return [entry for entry in entries if entry.name not in names]


class _File:
    def __init__(self, settings: Settings) -> None:
        self._path = settings.data / "kafka" / f"{settings.named('schema-ids')}.json"

    async def load(self) -> list[Issued]:
        """See IssuedIds."""
        return self._load()

    def _load(self) -> list[Issued]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Issued])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigurationError(
                f"{self._path}, which says what the log's schema ids mean, cannot be read: {error}",
                hint="take it from a backup; without it, remove it only if the ids never changed",
            ) from error

    async def add(self, entries: Sequence[Issued]) -> None:
        """See IssuedIds."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several workers may learn at once
            recorded = self._load()
            new = _new(recorded, entries)
            if not new:
                return
            half = self._path.with_suffix(".tmp")
            with half.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode([*recorded, *new]), indent=1))
                file.flush()
                os.fsync(file.fileno())
            half.replace(self._path)


class _Topic:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.named(SCHEMA_IDS)

    async def load(self) -> list[Issued]:
        """See IssuedIds. A topic that is missing, or that this user may not read, remembers nothing."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
        )
        try:
            await connect(self._settings, consumer, COMMAND_S)
            return await patiently(
                self._settings, "reading schema ids", lambda: self._read(consumer), DEADLINE_S
            )
        finally:
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> list[Issued]:
        if self._topic not in await consumer.topics():
            return []
        place = TopicPartition(self._topic, 0)
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        await consumer.seek_to_beginning(place)
        found: list[Issued] = []
        while await consumer.position(place) < end:
            for messages in (await consumer.getmany(place, timeout_ms=500)).values():
                found += [msgspec.json.decode(m.value, type=Issued) for m in messages]
        return found

    async def add(self, entries: Sequence[Issued]) -> None:
        """See IssuedIds. Of two that first write at once, at least one finds the other's ids and is refused."""
        new = _new(await self.load(), entries)
        if not new:
            return
        producer = AIOKafkaProducer(**client_options(self._settings), acks="all", enable_idempotence=True)
        try:
            await connect(self._settings, producer, COMMAND_S)
            await patiently(
                self._settings, "remembering schema ids", lambda: self._write(producer, new), DEADLINE_S
            )
        finally:
            await producer.stop()
        _new(await self.load(), entries)

    async def _write(self, producer: AIOKafkaProducer, entries: Sequence[Issued]) -> None:
        sent = [
            await producer.send(self._topic, msgspec.json.encode(e), e.name.encode(), partition=0)
            for e in entries
        ]
        await asyncio.gather(*sent)
