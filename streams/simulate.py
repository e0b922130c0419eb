"""`headwater simulate`: the simulated fleet at the pace of the wall clock, into a live project."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path

import structlog

from schemas.envelope import DEFAULT_PROJECT
from schemas.errors import ConfigurationError, HeadwaterError
from schemas.events import FaultInjected
from streams.fleet_simulation.fleet import DEFAULT_AGENTS, DEFAULT_RATE, DEFAULT_SEED, Fleet, Timed
from streams.producing.outgoing import Outgoing, address
from streams.producing.producer import Producer
from streams.replay.driver import Sink
from streams.replay.json_lines import to_json_line
from streams.settings import Settings
from streams.supervision.status import JSON, ProcessStatus

log = structlog.get_logger()

SOURCE = "simulate"
TICK_S = 0.1
"""How often what has happened meanwhile is sent."""
STATUS_S = 1.0
RETRY_S = 1.0
LOST_TRACK_S = 30.0
"""So far behind (Kafka was gone, the machine slept), the fleet starts anew rather than make up for it."""
LAST_WORDS_S = 0.5
"""What stopping may take: the supervisor kills a process that takes longer than 0.8 s."""


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    agents: int = DEFAULT_AGENTS,
    seed: int = DEFAULT_SEED,
    rate: float = DEFAULT_RATE,
    project: str = DEFAULT_PROJECT,
    faults_file: Path | None = None,
    sink: Sink | None = None,
) -> None:
    """Simulate until `stop`; `rate` is events a second on average over a day.

    Each fault is a FaultInjected event, and with `faults_file` also a line there (see
    `streams.replay.json_lines`), added to what it holds. Raises ConfigurationError for no agents or
    no rate; while Kafka is away it waits and says so.
    """
    Fleet(seed, agents, time.time(), rate)  # refuses what makes no sense, before anything is connected
    if faults_file is not None:
        try:
            faults_file.open("ab").close()
        except OSError as error:
            raise ConfigurationError(
                f"{faults_file} cannot be written: {error.strerror}", hint="give another file for the faults"
            ) from error
    if sink is not None:
        await _Simulation(settings, sink, agents, seed, rate, project, faults_file).run(stop)
        return
    producer = Producer(settings, source=SOURCE)
    try:
        await _Simulation(settings, producer, agents, seed, rate, project, faults_file).run(stop)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await producer.stop()


class _Simulation:
    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        agents: int,
        seed: int,
        rate: float,
        project: str,
        faults_file: Path | None,
    ) -> None:
        self._sink = sink
        self._make = partial(Fleet, seed, agents, rate=rate)
        self._project = project
        self._faults_file = faults_file
        self._status = ProcessStatus(settings, "simulate")
        self._facts: dict[str, JSON] = {"agents": agents, "seed": seed, "rate": rate, "project": project}
        self._sent = 0
        self._faults = 0

    async def run(self, stop: asyncio.Event) -> None:
        fleet = self._make(start=time.time())
        told = 0.0
        while not stop.is_set():
            now = time.time()
            if now - fleet.now > LOST_TRACK_S:
                log.warning("simulate.starts_anew", behind_s=round(now - fleet.now, 1))
                await self._send(fleet.stop(), stop)
                fleet = self._make(start=now)
            await self._send(fleet.advance(now), stop)
            if time.monotonic() - told > STATUS_S:
                told = time.monotonic()
                self._status.set("running", events=self._sent, faults=self._faults, **self._facts)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK_S)
        self._status.set("stopping")
        await self._say_goodbye(fleet)

    async def _send(self, made: list[Timed], stop: asyncio.Event) -> None:
        """Write events, again and again with the same ids until they are acknowledged or `stop` is set."""
        batch = [self._outgoing(timed) for timed in made]
        while batch and not stop.is_set():
            try:
                await _unless(stop, self._sink.emit_many(batch))
            except HeadwaterError as error:
                if not error.retriable:
                    raise
                log.warning("simulate.waits_for_kafka", why=str(error))
                await _unless(stop, asyncio.sleep(RETRY_S))
            else:
                self._count(batch)
                return

    async def _say_goodbye(self, fleet: Fleet) -> None:
        """Cancel open runs and retire the agents; a broker that is gone already is not waited for."""
        batch = [self._outgoing(timed) for timed in fleet.stop()]
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._sink.emit_many(batch)
        except (TimeoutError, HeadwaterError) as error:
            log.warning("simulate.left_runs_open", runs=len(fleet.open_runs), why=str(error) or "no answer")
        else:
            self._count(batch)

    def _count(self, batch: Sequence[Outgoing]) -> None:
        faults = [item for item in batch if isinstance(item.event, FaultInjected)]
        self._sent += len(batch)
        self._faults += len(faults)
        for item in faults:
            log.info("simulate.fault", component=item.key, fault=item.event.__dict__)
            if self._faults_file is not None:
                with self._faults_file.open("ab") as file:
                    file.write(to_json_line(item.event, item.envelope, item.key) + b"\n")

    def _outgoing(self, timed: Timed) -> Outgoing:
        return address(
            timed.event,
            SOURCE,
            {
                "project": self._project,
                "id": timed.id,
                "time": timed.time,
                "correlation_id": timed.correlation_id,
                "causation_id": timed.causation_id,
            },
        )


async def _unless(stop: asyncio.Event, doing: Awaitable[object]) -> None:
    """Wait for something, but no longer than until `stop` is set: it is cancelled then."""
    work, stopping = asyncio.ensure_future(doing), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
    finally:
        stopping.cancel()
        work.cancel()
