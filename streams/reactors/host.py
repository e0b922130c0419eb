"""The process `reactors`: every reactor of the catalog, each as a consumer group of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from schemas.codec import Codec
from streams.admin import declared, require_topics
from streams.codec import codec_of
from streams.partitions.kafka_log import KafkaLog
from streams.partitions.log import Step, crash_points
from streams.partitions.worker import Worker
from streams.reactors.catalog import reactors as catalog
from streams.reactors.reactor import Reactor
from streams.reactors.report import report
from streams.reactors.task import ReactorTask
from streams.settings import Settings
from streams.supervision.status import ProcessStatus

log = structlog.get_logger()


def group_of(reactor: Reactor) -> str:
    """The reactor's consumer group, without namespace."""
    return f"reactors.{reactor.name}"


class Host:
    """One reactor's part of this process."""

    def __init__(self, settings: Settings, reactor: Reactor, codec: Codec, step: Step) -> None:
        self.settings = settings
        self.reactor = reactor
        self._topics = {topic.name: topic for topic in reactor.topics}
        self._log = KafkaLog(settings, group_of(reactor))
        self._codec = codec
        self._step = step
        self.worker: Worker[ReactorTask] = Worker(settings, group_of(reactor), self._topics, self._task, step)

    def _task(self, topic: str, partition: int) -> ReactorTask:
        return ReactorTask(
            self.reactor,
            self._topics[topic],
            partition,
            self._log,
            codec=self._codec,
            nudge=lambda: self.worker.nudge(topic, partition),
            step=self._step,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`."""
        await self.reactor.open(self.settings)
        try:
            await self._log.start()
            try:
                await self.worker.run(stop)
            finally:
                await self._log.close()
        finally:
            await self.reactor.close()


async def run(settings: Settings, stop: asyncio.Event, reactors: Iterable[Reactor] | None = None) -> None:
    """The `reactors` process; those of the catalog unless given. What one of them raises ends all."""
    reactors = list(catalog() if reactors is None else reactors)
    await require_topics(settings, declared(settings, reactors=reactors))
    codec, step = await codec_of(settings, keeps=True), crash_points()
    hosts = [Host(settings, reactor, codec, step) for reactor in reactors]
    reporting = asyncio.create_task(report(hosts, ProcessStatus(settings, "reactors")))
    running = [asyncio.create_task(host.run(stop), name=host.reactor.name) for host in hosts]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        stop.set()
        reporting.cancel()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
