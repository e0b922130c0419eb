"""Produces events: checked, idempotent, acknowledged by all replicas, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from aiokafka.errors import KafkaError

from schemas.codec import Codec
from schemas.errors import BrokerUnavailable, HeadwaterError
from schemas.events import Event
from streams.codec import admit, bare_codec, ids_of
from streams.disk import DiskGuard
from streams.producing.budget import Budget
from streams.producing.connection import Connection
from streams.producing.delivery import Call, Lane, Part
from streams.producing.outgoing import Options, Outgoing, Position, Prepared, address, prepare
from streams.producing.partitioner import partition_for
from streams.settings import Settings

__all__ = ["Options", "Outgoing", "Position", "Producer", "Unacknowledged"]

MAX_UNACKNOWLEDGED_BYTES = 32 * 1024 * 1024
_PAUSE_S = 0.2
_TURN = 512


class Unacknowledged(BrokerUnavailable):
    """Kafka did not acknowledge every record in time.

    `positions` has a Position for each acknowledged item and None for each other; `ids` are the
    others' event ids. Those were not written, but for a batch that was on the wire: send them again
    with the same ids, and the ones that had arrived are dropped as duplicates.
    """

    def __init__(self, message: str, positions: list[Position | None], ids: list[str]) -> None:
        super().__init__(message, hint="send them again with the same ids once `headwater status` is well")
        self.positions = positions
        self.ids = ids


class Producer:
    """Writes events to raw topics. Belongs to the event loop that it is first used on.

    `deadline_s`: how long a call may go without an acknowledgement before it raises Unacknowledged.
    `max_unacknowledged_bytes`: emit waits while more than this is under way. `codec` has the schema ids
    in force; they are asked for when they are first needed unless it is given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: str = "sdk",
        deadline_s: float = 30.0,
        max_unacknowledged_bytes: int = MAX_UNACKNOWLEDGED_BYTES,
        codec: Codec | None = None,
    ) -> None:
        self.settings = settings
        self.source = source
        self.deadline_s = deadline_s
        self._codec = codec
        self._admitted = False
        self._asking = asyncio.Lock()
        self._disk = DiskGuard(settings)
        self._budget = Budget(max_unacknowledged_bytes)
        self._connection = Connection(settings)
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._calls: set[Call] = set()
        self._closed = False

    async def start(self, deadline_s: float | None = None) -> None:
        """Connect. Optional: emit connects when it has to.

        Raises ConfigurationError at once where no retry can mend it (a refused login, an untrusted
        certificate, schema ids that do not fit the log), BrokerUnavailable after the deadline, the
        producer's own by default; RegistryUnavailable.
        """
        codec = await self.codec()
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        failure: Exception | None = None
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    try:
                        await self._connection.client()
                        await self._admit(codec)
                    except (KafkaError, OSError, BrokerUnavailable) as error:
                        failure = error
                        await asyncio.sleep(_PAUSE_S)
                    else:
                        return
        except TimeoutError:
            raise BrokerUnavailable(
                f"no connection to Kafka at {self.settings.bootstrap} within {deadline_s:g} s"
                + (
                    f": {failure.message if isinstance(failure, HeadwaterError) else failure}"
                    if failure
                    else ""
                ),
                hint="start it (`headwater up`), or set HEADWATER_KAFKA to where it is",
            ) from failure

    async def stop(self) -> None:
        """Wait for what is under way (at most the deadline), then close. Nothing may be emitted after."""
        self._closed = True
        await self.flush()
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))
        await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes under way now."""
        return self._budget.used

    def outgoing(self, event: Event, **options: Unpack[Options]) -> Outgoing:
        """An event with its envelope, for `emit_many`; see `Options`. Raises InvalidEvent."""
        return address(event, self.source, options)

    async def emit(self, event: Event, **options: Unpack[Options]) -> Position:
        """Write one event and wait for the acknowledgement; see `Options`.

        Raises InvalidEvent, RecordTooLarge, ConfigurationError (no such topic, no right to write, schema
        ids that do not fit the log), RegistryUnavailable or DiskFull before or instead of writing,
        Unacknowledged (a BrokerUnavailable) after the deadline.
        """
        return (await self.emit_many((address(event, self.source, options),)))[0]

    async def emit_many(self, items: Sequence[Outgoing]) -> list[Position]:
        """Write many events, in order for each partition, and wait until all are acknowledged.

        All are checked and encoded before any is sent. The deadline starts anew with every
        acknowledgement, so a long list may take longer than it. Raises as `emit`; where Kafka
        itself refuses a record (its limits or rights differ from ours), the rest is not sent.
        """
        codec = await self.codec()
        prepared = []
        for number, item in enumerate(items, 1):
            prepared.append(prepare(item, codec))
            if number % _TURN == 0:
                await asyncio.sleep(0)  # a long list holds the loop for no longer than 10 ms
        return await self.send(prepared)

    async def prepare(self, item: Outgoing) -> Prepared:
        """The record of an event, for `send`. Raises InvalidEvent, RecordTooLarge, as `codec`; nothing is sent."""
        return prepare(item, await self.codec())

    def share(self, limit: int) -> Budget:
        """A share of what may be under way: whoever sends with it has at most `limit` bytes on their way."""
        return Budget(limit, self._budget)

    async def send(self, prepared: Sequence[Prepared], share: Budget | None = None) -> list[Position]:
        """Write records that are checked already; otherwise as `emit_many`."""
        if self._closed:
            raise HeadwaterError("this producer was stopped", hint="make another one")
        if not prepared:
            return []
        self._disk.check()
        codec = await self.codec()
        call = Call(len(prepared), self.deadline_s, self._budget if share is None else share)
        self._calls.add(call)
        try:
            async with asyncio.timeout(self.deadline_s) as call.clock:
                await self._admit(codec)
                await self._enqueue(prepared, call)
                await asyncio.wait((call.done,))
        except TimeoutError:
            if not call.done.done():  # else it was acknowledged in the very moment
                call.give_up()
                for lane in self._lanes.values():
                    lane.deadline_passed()
                raise self._unacknowledged(prepared, call) from None
        finally:
            call.give_up()
            self._calls.discard(call)
        if call.error is not None:
            raise call.error
        return [at for at in call.positions if at is not None]

    async def flush(self) -> None:
        """Wait until every event given to this producer so far is acknowledged or has failed."""
        if self._calls:
            await asyncio.wait([call.done for call in self._calls])

    async def codec(self) -> Codec:
        """With the schema ids in force. Raises RegistryUnavailable or ConfigurationError."""
        if self._codec is None:
            async with self._asking:
                if self._codec is None:
                    self._codec = bare_codec(self.settings, await ids_of(self.settings))
        return self._codec

    async def _admit(self, codec: Codec) -> None:
        """Before the first record: whether the ids fit the log. Waits for Kafka as long as the caller does."""
        if self._admitted:
            return
        async with self._asking:
            while not self._admitted:
                try:
                    await admit(self.settings, codec)
                except BrokerUnavailable as error:
                    self._connection.last_error = error
                else:
                    self._admitted = True

    async def _enqueue(self, prepared: Sequence[Prepared], call: Call) -> None:
        counts = {topic: await self._partitions(topic) for topic in {record.topic for record in prepared}}
        for start in range(0, len(prepared), _TURN):
            await self._put(prepared, range(start, min(start + _TURN, len(prepared))), counts, call)

    async def _put(
        self, prepared: Sequence[Prepared], places: range, counts: dict[str, int], call: Call
    ) -> None:
        """Queue the records in these places: all at once where the budget has room for all, else by halves."""
        budget = call.budget
        cost = sum([prepared[place].cost for place in places])
        if len(places) > 1 and (cost > budget.limit or not budget.try_take(cost)):
            middle = len(places) // 2
            await self._put(prepared, places[:middle], counts, call)
            await self._put(prepared, places[middle:], counts, call)
            return
        if len(places) == 1:
            await budget.take(cost)
        if call.done.done():
            budget.give(cost)
            return  # one of its records was refused meanwhile
        parts: dict[tuple[str, int], Part] = {}
        for place in places:
            record = prepared[place]
            at = record.topic, partition_for(record.key, counts[record.topic])
            part = parts.get(at)
            if part is None:
                part = parts[at] = Part(call)
            part.records.append(record)
            part.places.append(place)
        for (topic, partition), part in parts.items():
            lane = self._lanes.get((topic, partition))
            if lane is None:
                lane = Lane(self._connection, topic, self.settings.named(topic), partition)
                self._lanes[topic, partition] = lane
            lane.put(part)

    async def _partitions(self, topic: str) -> int:
        """Partition count of a topic; waits for Kafka as long as the caller's deadline allows."""
        while True:
            try:
                return await self._connection.partitions(self.settings.named(topic))
            except (KafkaError, OSError, BrokerUnavailable) as error:
                self._connection.last_error = error
                await asyncio.sleep(_PAUSE_S)

    def _unacknowledged(self, prepared: Sequence[Prepared], call: Call) -> Unacknowledged:
        missing = [p for p, at in zip(prepared, call.positions, strict=True) if at is None]
        shown = ", ".join([p.id for p in missing[:3]] + ["…"] * (len(missing) > 3))
        error = self._connection.last_error
        return Unacknowledged(
            f"Kafka at {self.settings.bootstrap} acknowledged nothing for {self.deadline_s:g} s: "
            f"{len(missing)} of {len(prepared)} events not acknowledged "
            f"({shown}; {', '.join(sorted({p.topic for p in missing}))})"
            + (f"; last error: {error}" if error else ""),
            call.positions,
            [p.id for p in missing],
        )
