"""The process `broker` when it runs alone: the embedded broker, with its topics, until told to stop."""

from __future__ import annotations

import asyncio

import structlog

from schemas.errors import BrokerUnavailable, ConfigurationError
from streams.broker import Broker
from streams.disk import obstacle
from streams.settings import Settings
from streams.supervision.prepare import prepare
from streams.supervision.standstill import Standstill
from streams.supervision.status import ProcessStatus

log = structlog.get_logger()
_POLL_S = 0.5


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run the broker.

    Raises ConfigurationError where another cluster is configured, DiskFull or DiskReadOnly where it could not
    live, BrokerUnavailable where it ends by itself; otherwise as `prepare`.
    """
    if not settings.embedded:
        raise ConfigurationError(
            f"HEADWATER_KAFKA is {settings.kafka}: there is no broker to run here",
            hint="unset it to run the embedded broker",
        )
    if (found := obstacle(settings)) is not None:
        raise found
    status = ProcessStatus(settings, "broker")
    broker, standstill = Broker(settings), Standstill()
    await broker.start()
    try:
        for line in await prepare(settings):
            log.info("broker.prepared", what=line)
        status.set("running", pid=broker.pid)
        log.info("broker.ready", bootstrap=settings.bootstrap, pid=broker.pid)
        while not stop.is_set():
            if (pid := broker.pid) is None:
                raise BrokerUnavailable(
                    f"the broker ended with code {broker.returncode}", hint=f"its log is {broker.log_path}"
                )
            if standstill.ended(pid):
                log.warning("broker.stood_still", pid=pid, then="it was let go on")
            try:
                await asyncio.wait_for(stop.wait(), _POLL_S)
            except TimeoutError:
                continue
    finally:
        status.set("stopping")
        await broker.stop()
