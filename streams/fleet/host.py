"""The process `fleet`: a Faust app in our own loop, with heartbeats, and a watchdog that starts it anew."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import faust
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas import events as e
from schemas import topics
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams.admin import TopicSpec, require_topics
from streams.codec import codec_of
from streams.fleet.agents import Fleet
from streams.fleet.handling import Handling, record_of
from streams.fleet.parts import faust_options
from streams.kafka import client_options, connect
from streams.modules import imported
from streams.sdk import Headwater
from streams.settings import Settings
from streams.supervision.status import ProcessStatus

log = structlog.get_logger()
HEARTBEAT_S = 10.0
LOOK_S = 5.0
STALLED_S = 60.0
"""So long a lag may stand with nobody at work: then the app is started anew."""
STOP_S = 8.0
_PATIENCE_S = 7 * 24 * 3600.0
"""Deadline of what agents emit: while Kafka is away, a task waits."""


def load(name: str) -> Fleet:
    """The Fleet of `module` or `module:attribute`; the working folder is searched too.

    Raises ConfigurationError where there is none, or where the module cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    module = imported(module_name)
    found = [v for n, v in vars(module).items() if isinstance(v, Fleet) and attribute in ("", n)]
    if len(found) != 1:
        what = f"{len(found)} fleets" if found else "no Fleet" + (f" called {attribute}" if attribute else "")
        raise ConfigurationError(f"module {module_name} has {what}", hint="name one: module:attribute")
    if not found[0].agents:
        raise ConfigurationError(
            f"the fleet of {module_name} has no agent", hint="declare one with @fleet.agent"
        )
    return found[0]


class Host:
    """Runs one fleet until it is told to stop."""

    def __init__(self, settings: Settings, fleet: Fleet, codec: Codec) -> None:
        self.settings = settings
        self.fleet = fleet
        self.restarts = 0
        self.lag: int | None = None
        self._hw = Headwater(settings, source=f"fleet/{fleet.name}", deadline_s=_PATIENCE_S)
        self.handling = Handling(fleet, self._hw, codec)
        self._app: Any = None

    @property
    def group(self) -> str:
        """The app's consumer group in Kafka."""
        return self.settings.named(f"fleet.{self.fleet.name}")

    async def run(self, stop: asyncio.Event) -> None:
        """Announce the agents, work, and retire them. Raises ConfigurationError where the inbox is missing."""
        await require_topics(self.settings, [TopicSpec(topics.INBOX.name, self.settings.partitions, {})])
        await self._hw.producer.start()
        status = ProcessStatus(self.settings, "fleet")
        status.set("starting", agents=sorted(self.fleet.agents))
        await self._each(self._announce)
        self._app = await self._started()
        log.info("fleet.runs", fleet=self.fleet.name, agents=sorted(self.fleet.agents))
        watching = asyncio.create_task(self._watch(status))
        try:
            await stop.wait()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await self._stop_app()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # a broker that is gone must not hold up the end
                    await self._each(self._retire)
                    await self._hw.close()

    async def _started(self) -> Any:
        """A Faust app at work."""
        app = faust.App(self.group, **faust_options(self.settings))
        inbox = app.topic(
            self.settings.named(topics.INBOX.name), key_serializer="raw", value_serializer="raw"
        )

        async def consume(stream: Any) -> None:
            async for event in stream.events():
                await self.handling.handle(record_of(event.message, topics.INBOX.name))

        app.agent(inbox, concurrency=1, name="inbox")(consume)
        app.timer(HEARTBEAT_S)(self._beat)
        await app.start()
        return app

    async def _stop_app(self) -> None:
        app, self._app = self._app, None
        if app is not None:
            try:
                await asyncio.wait_for(app.stop(), STOP_S)
            except Exception as error:  # noqa: BLE001 - whatever Faust raises, it is over
                log.warning("fleet.stop", why=repr(error))

    async def _beat(self) -> None:
        await self._each(self._heartbeat)

    async def _each(self, say: Callable[[str], Awaitable[object]]) -> None:
        await asyncio.gather(*(say(agent_id) for agent_id in self.fleet.agents))

    async def _announce(self, agent_id: str) -> None:
        agent = self.fleet.agents[agent_id]
        await self._hw.emit(
            e.AgentAnnounced(
                agent_id=agent_id,
                role=agent.role,
                version=agent.version,
                capabilities=list(agent.capabilities),
                models=list(agent.models),
            )
        )

    async def _heartbeat(self, agent_id: str) -> None:
        load = min(1.0, self.handling.take_busy_s(agent_id) / HEARTBEAT_S)
        await self._hw.heartbeat(agent_id=agent_id, load=load, version=self.fleet.agents[agent_id].version)

    async def _retire(self, agent_id: str) -> None:
        await self._hw.emit(e.AgentRetired(agent_id=agent_id, reason="its host stopped"))

    async def _watch(self, status: ProcessStatus) -> None:
        """Say how it is, and start the app anew when it stands still while there is something to do."""
        consumer = AIOKafkaConsumer(
            **client_options(self.settings), group_id=self.group, enable_auto_commit=False
        )
        await connect(self.settings, consumer, 60.0)
        committed_before, since = -1, time.monotonic()
        try:
            while True:
                status.set("running", lag=self.lag, restarts=self.restarts, **self.facts())
                await asyncio.sleep(LOOK_S)
                try:
                    committed, self.lag = await self._progress(consumer)
                except KafkaError:
                    since = time.monotonic()  # Kafka is away: the app has nothing to do with it
                    continue
                if committed != committed_before or not self.lag or self.handling.busy_since is not None:
                    committed_before, since = committed, time.monotonic()
                elif time.monotonic() - since > STALLED_S:
                    log.warning("fleet.restart", lag=self.lag, stood_still_s=round(time.monotonic() - since))
                    await self._stop_app()
                    self._app = await self._started()
                    self.restarts += 1
                    since = time.monotonic()
        finally:
            await consumer.stop()

    async def _progress(self, consumer: AIOKafkaConsumer) -> tuple[int, int]:
        """The group's offsets added up, and how far they are from the end."""
        name = self.settings.named(topics.INBOX.name)
        places = [TopicPartition(name, p) for p in range(self.settings.partitions)]
        firsts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        at = [await consumer.committed(tp) for tp in places]
        positions = [firsts[tp] if offset is None else offset for tp, offset in zip(places, at, strict=True)]
        return sum(positions), sum(ends.values()) - sum(positions)

    def facts(self) -> dict[str, int]:
        """Counts since the process started."""
        handling = self.handling
        return {"handled": handling.handled, "failed": handling.failed, "repeated": handling.repeated}


async def run(settings: Settings, stop: asyncio.Event, fleet: Fleet) -> None:
    """The `fleet` process."""
    await Host(settings, fleet, await codec_of(settings)).run(stop)
