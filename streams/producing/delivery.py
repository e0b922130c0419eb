"""Records on their way to Kafka: one lane a partition, bounded memory, a deadline that holds.

aiokafka's own queue is not used beyond one batch a lane, for three reasons. An idempotent aiokafka
producer never expires what it holds: a record reported as failed would still be written when the
broker returns, after its sender has sent it anew. Its futures are one a record, here one a call
(four times the throughput). And a lane that waits for its batch gathers the next one meanwhile, so
batches grow under load and a single record waits for nothing.

When a deadline passes over a batch that is on the wire, the client is thrown away: whether that one
batch was written is unknown and said so; what waited behind it was never sent. Other lanes send
their batch again through the new client; where the first one had arrived, the event is in the log
twice under one id and dropped after re-keying, as for any producer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import structlog

from streams.producing.batch import Batch
from streams.producing.budget import Budget
from streams.producing.connection import Client, Connection, Refused
from streams.producing.outgoing import Position, Prepared

log = structlog.get_logger()
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_NO_LIMIT = 1 << 31
_WORTH_A_THREAD = 64 * 1024
"""Bytes that take longer to be compressed than a thread takes to begin with them."""


class Call:
    """One call of emit: `positions[i]` is where its i-th record stands, once acknowledged.

    What its records cost was taken of `budget`, and goes back there.
    """

    __slots__ = ("budget", "clock", "deadline_s", "done", "error", "left", "positions")

    def __init__(self, count: int, deadline_s: float, budget: Budget) -> None:
        self.budget = budget
        self.positions: list[Position | None] = [None] * count
        self.left = count
        self.deadline_s = deadline_s
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: Exception | None = None
        self.clock: asyncio.Timeout | None = None

    def progress(self) -> None:
        """Some records were acknowledged: finish, or start the deadline anew."""
        if self.done.done():
            return
        if self.left == 0:
            self.done.set_result(None)
        elif self.clock is not None and not self.clock.expired():
            self.clock.reschedule(asyncio.get_running_loop().time() + self.deadline_s)

    def fail(self, error: Exception) -> None:
        """A record of this call was refused for good."""
        if not self.done.done():
            self.error = error
            self.done.set_result(None)

    def give_up(self) -> None:
        """Nobody waits any more: what was not yet sent will not be."""
        self.done.cancel()


class Part:
    """Records of one call for one lane, in order, and the places that they have in the call."""

    __slots__ = ("call", "places", "records")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.records: list[Prepared] = []
        self.places: list[int] = []

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.call.done.done()

    def fitting(self, room: int) -> tuple[int, int]:
        """How many of its records fit into so many bytes, and what they leave of them."""
        for count, record in enumerate(self.records):
            left = room - len(record.body)
            if left < 0:
                return count, room
            room = left
        return len(self.records), room

    def cut(self, count: int) -> Part:
        """Take off the first `count` records."""
        front = Part(self.call)
        front.records, self.records = self.records[:count], self.records[count:]
        front.places, self.places = self.places[:count], self.places[count:]
        return front

    def acknowledged(self, topic: str, partition: int, offset: int) -> None:
        """Its records stand in the log, the first one at `offset`."""
        positions = self.call.positions
        for at, place in enumerate(self.places, offset):
            positions[place] = Position(topic, partition, at)
        self.call.left -= len(self.places)

    def give_back(self) -> None:
        """It is no longer under way."""
        self.call.budget.give(sum([record.cost for record in self.records]))


class Lane:
    """Records for one partition, in order, one batch at a time. `named` is Kafka's name of the topic."""

    def __init__(self, connection: Connection, topic: str, named: str, partition: int) -> None:
        self.topic = topic
        self.named = named
        self.partition = partition
        self._connection = connection
        self._queue: deque[Part] = deque()
        self._sending: list[Part] = []
        self._given_up: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._most: int | None = None

    def put(self, part: Part) -> None:
        """Queue records whose cost was taken of their call's budget."""
        self._queue.append(part)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def deadline_passed(self) -> None:
        """A call gave up: forget what waits, and the batch on the wire when nobody waits for it."""
        self._forget_unwanted()
        if (
            self._given_up is not None
            and not self._given_up.done()
            and not any(part.wanted for part in self._sending)
        ):
            self._given_up.set_result(None)

    async def close(self) -> None:
        """Stop; what is queued is not sent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for part in self._queue:
            part.give_back()
        self._queue.clear()

    def _forget_unwanted(self) -> None:
        unwanted = [part for part in self._queue if not part.wanted]
        if unwanted:
            self._queue = deque(part for part in self._queue if part.wanted)
            for part in unwanted:
                part.give_back()

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        try:
            while self._queue:
                try:
                    await self._send_one_batch()
                    pause = _FIRST_PAUSE_S
                except Exception as error:  # noqa: BLE001 - tried again, and told, until nobody waits for it
                    self._connection.last_error = error
                    log.debug("producer.retry", topic=self.named, partition=self.partition, error=repr(error))
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE_S)
        finally:
            self._task = None

    async def _send_one_batch(self) -> None:
        """Deliver the front of the queue; on an error the unwanted are dropped, the rest goes back."""
        batch: list[Part] = []
        try:
            client = await self._connection.client()
            batch = self._take()
            if not batch:
                return
            offset = await self._acknowledged(client, batch)
        except BaseException as error:
            refused = await self._connection.refused(error, self.named)
            if refused is not None and not self._halve(refused, batch):
                self._finish(batch, refused)
                return
            self._queue.extendleft(reversed(batch))
            self._forget_unwanted()
            if refused is None:
                raise
            return
        self._most = None
        self._connection.last_error = None
        self._finish(batch, offset)

    def _take(self) -> list[Part]:
        batch: list[Part] = []
        queue = self._queue
        room, left = self._connection.batch_bytes, self._most or _NO_LIMIT
        while queue and left:
            part = queue[0]
            if not part.wanted:
                queue.popleft().give_back()
                continue
            count, room = part.fitting(room)
            if not count and not batch:
                count, room = 1, 0  # one record is a batch, however large it is
            count = min(count, left)
            left -= count
            if count < len(part.records):
                if count:
                    batch.append(part.cut(count))
                break
            batch.append(queue.popleft())
        return batch

    async def _acknowledged(self, client: Client, batch: list[Part]) -> int:
        """Offset of the batch's first record. On a passed deadline the client is thrown away."""
        loop = asyncio.get_running_loop()
        given_up = self._given_up = loop.create_future()
        self._sending = batch
        sent = asyncio.ensure_future(self._send(client, batch))
        try:
            await asyncio.wait({sent, given_up, client.lost}, return_when=asyncio.FIRST_COMPLETED)
            if not sent.done():
                self._connection.drop(client)
                raise TimeoutError("no answer to a batch on the wire")
            try:
                return sent.result()
            except Exception:
                # Also after a refusal: aiokafka has counted the batch, Kafka has not, and the next one
                # would be out of sequence.
                self._connection.drop(client)
                raise
        finally:
            sent.cancel()
            self._given_up = None
            self._sending = []

    async def _send(self, client: Client, parts: list[Part]) -> int:
        batch = await _compressed(parts)
        future = await client.kafka.send_batch(batch, self.named, partition=self.partition)
        metadata = await future
        return int(metadata.offset)

    def _finish(self, batch: list[Part], outcome: int | Refused) -> None:
        for part in batch:
            if isinstance(outcome, Refused):
                part.call.fail(outcome.error)
            else:
                part.acknowledged(self.topic, self.partition, outcome)
                outcome += len(part.records)
                part.call.progress()
            part.give_back()

    def _halve(self, refused: Refused, batch: list[Part]) -> bool:
        """A batch too large for the broker is sent in halves before a record is refused."""
        count = sum(len(part.records) for part in batch)
        if not refused.too_large or count < 2:
            return False
        self._most = count // 2
        return True


async def _compressed(parts: list[Part]) -> Batch:
    """The batch, compressed beside the event loop where that is worth a thread."""
    bodies = [record.body for part in parts for record in part.records]
    batch = Batch(bodies)
    if sum(map(len, bodies)) < _WORTH_A_THREAD:
        batch.compress()
    else:
        await asyncio.to_thread(batch.compress)
    return batch
