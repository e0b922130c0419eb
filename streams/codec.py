"""The codec of this instance: the one place where processes get one, with the schema ids in force.

The ids are the committed ones, or those of the registry that HEADWATER_REGISTRY names. What the log
remembers of its ids is compared before anything is decoded or written (ADR 7).
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any

import structlog

from schemas.catalog import by_subject
from schemas.codec import Codec, Record
from schemas.errors import ConfigurationError, RegistryUnavailable
from schemas.locks import registry as every_schema
from schemas.registry import Registered, Registry
from streams.authority.issued import COMMITTED, Issued, IssuedIds, as_issued, compare, issued_ids
from streams.settings import Settings

log = structlog.get_logger()

LEARN_S = 2.0
"""How long one attempt to ask for an unknown id may take; its partition tries again."""
_SECOND_LOOK_S = 1.0
_RETRY_S = 1.0
_REFUSED_S = 5.0
"""So long an id that the registry did not know is not asked for again."""
_MOST_REFUSED = 10_000
_HEAD = struct.Struct(">bI")


async def ids_of(settings: Settings) -> Registry:
    """The schemas with the ids in force. Kafka is not asked.

    Raises RegistryUnavailable where the registry is away, ConfigurationError where it refuses the
    credentials or lacks a schema.
    """
    committed = every_schema()
    if settings.registry is None:
        return committed
    from streams.authority.confluent import SchemaRegistry  # noqa: PLC0415 - httpx takes 0.1 s, most do without
    from streams.authority.registering import find  # noqa: PLC0415

    async with SchemaRegistry(settings.registry.get_secret_value()) as registry:
        return (await find(registry, committed)).complete(registry.url)


async def codec_of(settings: Settings, *, keeps: bool = False) -> Codec:
    """The codec with the ids in force, compared with what the log remembers of them.

    It also reads what the log remembers beyond our files. Who `keeps` ids adds what is new to that
    memory: folds do, so that a later restore knows what they knew. Raises as `ids_of`,
    ConfigurationError where the ids do not fit the log, BrokerUnavailable.
    """
    codec = bare_codec(settings, await ids_of(settings), keeps=keeps)
    await admit(settings, codec, keeps=keeps)
    return codec


def bare_codec(settings: Settings, ids: Registry, *, keeps: bool = False) -> Codec:
    """A codec that was compared with nothing yet: `admit` has to follow before it is used on the log."""
    if settings.registry is None:
        return Codec(ids, settings.max_record_bytes)
    return _LearningCodec(settings, ids, issued_ids(settings) if keeps else None)


async def admit(settings: Settings, codec: Codec, *, keeps: bool = False) -> None:
    """Compare a codec's ids with what the log remembers, and take over what it does not know. See `codec_of`."""
    by = settings.registry_url or COMMITTED
    ours, issued = as_issued(codec.registry, by), issued_ids(settings)
    known = await issued.load()
    compare(known, ours, (), by)
    if keeps and not {i.name for i in ours} <= {i.name for i in known}:
        await issued.add(ours)
    for other in known:
        if codec.knows(other.id):
            continue
        if other.subject not in by_subject():
            codec.name_absent(
                other.id, f"{other.subject}, which is not installed here; it was given by {other.by}"
            )
        elif _readable(other.registered):
            codec.adopt(other.registered)


async def learn_patiently(codec: Codec, records: Sequence[Record]) -> None:
    """As `Codec.learn`, however long the registry is away: for what is not read a second time."""
    while True:
        try:
            return await codec.learn(records)
        except RegistryUnavailable as error:
            log.warning("codec.waits_for_registry", why=str(error))
            await asyncio.sleep(_RETRY_S)


def _readable(registered: Registered) -> bool:
    """Whether it is an event type that is declared here, in Avro that can be read."""
    if registered.subject not in by_subject():
        return False
    try:
        return bool(registered.parsed)
    except Exception as error:  # noqa: BLE001 - fastavro raises many kinds on what is no schema
        log.warning("codec.unreadable_schema", id=registered.id, subject=registered.subject, why=repr(error))
        return False


class _LearningCodec(Codec):
    """Asks the registry about ids that it does not know.

    A registry that is away leaves the question open: RegistryUnavailable, and the partition tries
    again. Only the registry's word that there is no such schema makes a record undecodable, and at first
    it is asked twice: a node of a cluster may learn of a new id a moment after another gave it out.
    """

    def __init__(self, settings: Settings, ids: Registry, issued: IssuedIds | None) -> None:
        super().__init__(ids, settings.max_record_bytes)
        assert settings.registry is not None
        self._url, self._by = settings.registry.get_secret_value(), settings.registry_url or ""
        self._issued = issued
        self._refused: dict[int, float] = {}
        self._lock = asyncio.Lock()

    async def learn(self, records: Sequence[Record]) -> None:
        """See Codec. Raises RegistryUnavailable."""
        heads = {r.value[:5] for r in records if r.value is not None}
        if not self._unknown(heads):
            return
        async with self._lock:
            unknown = self._unknown(heads)
            if not unknown:
                return  # another partition has asked meanwhile
            found = await self._ask(unknown)
            if found and self._issued is not None:
                # Before anything is decoded with them: what a restore will not know must not be folded.
                await self._issued.add([Issued(r.subject, 0, r.id, self._by, r.definition) for r in found])
            for registered in found:
                self.adopt(registered)
                log.info("codec.learned", id=registered.id, subject=registered.subject)
            if len(self._refused) > _MOST_REFUSED:
                self._refused.clear()
            learned = {r.id for r in found}
            self._refused |= {i: time.monotonic() for i in unknown if i not in learned}

    def _unknown(self, heads: Iterable[bytes]) -> list[int]:
        ids = (_HEAD.unpack(head)[1] for head in heads if len(head) == _HEAD.size and head[0] == 0)
        asked_before = time.monotonic() - _REFUSED_S
        return [i for i in ids if not self.knows(i) and self._refused.get(i, float("-inf")) < asked_before]

    async def _ask(self, ids: Sequence[int]) -> list[Registered]:
        """Those that are schemas of our events."""
        from streams.authority.confluent import SchemaRegistry  # noqa: PLC0415

        try:
            async with SchemaRegistry(self._url, LEARN_S) as registry:
                found = await registry.definitions(ids)
                new = [i for i in ids if i not in found and i not in self._refused]
                if new:
                    await asyncio.sleep(_SECOND_LOOK_S)
                    found |= await registry.definitions(new)
        except ConfigurationError as error:  # a password that was changed: no reason to end a running process
            raise RegistryUnavailable(error.message, hint=error.hint) from error
        ours = (Registered(i, _full_name(d), 0, d) for i, d in found.items())
        return [r for r in ours if _readable(r)]


def _full_name(definition: dict[str, Any]) -> str:
    name, namespace = str(definition.get("name", "")), str(definition.get("namespace", ""))
    return name if "." in name or not namespace else f"{namespace}.{name}"
