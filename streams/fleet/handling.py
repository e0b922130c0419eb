"""The wrapper around an agent's handler: every task is a run, every failure is known, nothing escapes to Faust.

An exception in a Faust agent acknowledges its record: so none gets there. A record is acknowledged
when its task came to an end: a reply, or a dead letter. After a kill it is handled again: run, end
and messages of both times have the same ids, and count once; steps are what they are, done twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Any

import structlog

from schemas import events as e
from schemas.codec import Codec, Decoded, Record
from schemas.envelope import derived_id
from schemas.errors import DecodeError, HeadwaterError
from streams.codec import learn_patiently
from streams.fleet.agents import Fleet, HostedAgent
from streams.fleet.task import Task
from streams.partitions import letters
from streams.producing.batch import body
from streams.producing.context import Context
from streams.producing.outgoing import Options, Prepared
from streams.producing.scopes import Run
from streams.sdk import Headwater

log = structlog.get_logger()
FIRST_PAUSE_S = 1.0
_REMEMBERED = 10_000


class AssignedRun(Run):
    """The run of one assignment; handled again, its first and last event have the same ids."""

    def __init__(self, agent: HostedAgent, given: Decoded, name: tuple[str, ...]) -> None:
        event, envelope = given.event, given.envelope
        assert isinstance(event, e.TaskAssigned)
        self._name = name
        super().__init__(
            agent.id,
            event.content,
            derived_id(*self._name, "run"),
            project=envelope.project,
            conversation_id=event.conversation_id,
            traceparent=envelope.traceparent,
        )
        self._cause_id = envelope.id

    def _opening(self) -> tuple[e.Event, Context, Options]:
        event, context, options = super()._opening()
        began = derived_id(*self._name, "began")
        options["causation_id"] = self._cause_id
        return event, Context(**{**context.__dict__, "cause_id": began}), options

    def end(self, error: BaseException | None) -> tuple[e.Event, Options]:
        """The last event. Who is cancelled, because his partition goes elsewhere, has not ended it."""
        event, options = super().end(error)
        if not isinstance(error, asyncio.CancelledError):
            options["id"] = derived_id(*self._name, "ended")
        return event, options


class Handling:
    """Handles the records of the inbox for the agents of one fleet."""

    def __init__(self, fleet: Fleet, hw: Headwater, codec: Codec) -> None:
        self.fleet = fleet
        self.handled = self.failed = self.repeated = 0
        self.busy_since: float | None = None
        self._busy_s: dict[str, float] = dict.fromkeys(fleet.agents, 0.0)
        self._hw = hw
        self._codec = codec
        self._done: OrderedDict[tuple[str, ...], None] = OrderedDict()

    def take_busy_s(self, agent_id: str) -> float:
        """Seconds that an agent was at work since this was last asked."""
        seconds, self._busy_s[agent_id] = self._busy_s[agent_id], 0.0
        return seconds

    async def handle(self, record: Record) -> None:
        """Bring one record to its end; where Kafka is away that takes until it is back. Raises nothing."""
        await learn_patiently(self._codec, [record])
        try:
            given = self._codec.decode_record(record)
        except DecodeError as error:
            await self._letter(record, None, error)
            return
        agent = self.fleet.agents.get(getattr(given.event, "agent_id", ""))
        if agent is None or not isinstance(given.event, e.TaskAssigned):
            return  # another fleet's
        name: tuple[str, ...] = given.envelope.name
        if given.envelope.replay_of is not None:  # a dead letter's: the same assignment, another time
            name = (*name, str(record.offset))
        if name in self._done:
            self.repeated += 1
            return
        began = self.busy_since = time.monotonic()
        try:
            await self._run(agent, given, record, name)
        finally:
            self.busy_since = None
            self._busy_s[agent.id] += time.monotonic() - began
        self._done[name] = None
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)

    async def _run(self, agent: HostedAgent, given: Decoded, record: Record, name: tuple[str, ...]) -> None:
        try:
            async with self._hw._within(AssignedRun(agent, given, name)):  # noqa: SLF001 - the SDK's own way
                reply, task = await self._attempts(agent, given, name)
                if reply is not None:
                    await task.say(reply, to=task.sender_id)
        except Exception as error:  # noqa: BLE001 - the handler's own code raises what it likes
            self.failed += 1
            log.warning("fleet.failed", agent=agent.id, task=given.envelope.id, why=repr(error))
            await self._letter(record, agent.id, error)
        else:
            self.handled += 1

    async def _attempts(
        self, agent: HostedAgent, given: Decoded, name: tuple[str, ...]
    ) -> tuple[str | None, Task]:
        """The handler's reply. Raises what it raises, the last time that it may."""
        assert isinstance(given.event, e.TaskAssigned)
        attempt = 1
        while True:
            task = Task(given.event, given.envelope, self._hw, name, attempt)
            try:
                async with asyncio.timeout(agent.timeout_s):
                    return await agent.handle(task), task
            except (HeadwaterError, OSError) as error:  # TimeoutError is among the latter
                if (isinstance(error, HeadwaterError) and not error.retriable) or attempt >= agent.attempts:
                    raise
                await self._hw.error(f"agent:{agent.id}", error, severity="warning")
                await asyncio.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
                attempt += 1

    async def _letter(self, record: Record, agent_id: str | None, cause: Exception) -> None:
        """A dead letter, acknowledged by Kafka before the record is."""
        letter = letters.of_record(record, f"fleet.{agent_id}" if agent_id is not None else None, cause)
        project = letters.project_of(record)
        source = f"fleet/{self.fleet.name}"
        send = letters.send(letter, f"fleet/{record.offset}", project, record.timestamp, source, self._codec)
        assert send.value is not None
        written = body(send.key, send.value, send.headers)
        await self._hw.producer.send([Prepared("", send.topic, send.key, written)])


def record_of(message: Any, topic: str) -> Record:
    """What Faust read, as our record; `topic` is without namespace."""
    headers = message.headers
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers or ())
    return Record(
        topic, message.partition, message.offset, message.timestamp, message.key, message.value, pairs
    )
