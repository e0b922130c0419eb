"""The embedded broker under `up`: started again when it dies, and not before it could live."""

from __future__ import annotations

import asyncio
import time

from schemas.errors import HeadwaterError
from streams.broker import Broker
from streams.disk import obstacle
from streams.doctor.machine import kafka_jars
from streams.settings import Settings
from streams.supervision.child import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, STEADY_S, Say, rotate
from streams.supervision.standstill import Standstill

_POLL_S = 0.25
_ROOM_POLL_S = 1.0


class BrokerKeeper:
    """Keeps a broker running; its clients wait for it by themselves."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self.broker = Broker(settings)
        self.state = "waiting"
        self.restarts = 0
        self.error: str | None = None
        """Why it does not run, where that is known."""
        self._settings = settings
        self._say = say
        self._ran_from = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self.broker.pid

    async def start(self) -> None:
        """Start it. Raises HeadwaterError or OSError; nothing of it runs then."""
        self.state = "starting"
        if not kafka_jars():
            self._say("info", "fetching Apache Kafka from Maven Central, 43 MB, once")
        rotate(self.broker.log_path)
        began = time.monotonic()
        await self.broker.start()
        self._ran_from = time.monotonic()
        self.state, self.error = "running", None
        self._say("info", f"broker answers after {time.monotonic() - began:.1f} s (pid {self.pid})")

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled. One that soon ends again waits longer each time."""
        backoff_s, standstill = FIRST_BACKOFF_S, Standstill()
        while True:
            while (pid := self.pid) is not None:
                if standstill.ended(pid):
                    self._say("warning", f"the broker (pid {pid}) stood still for long, and was let go on")
                await asyncio.sleep(_POLL_S)
            self.state = "restarting"
            if time.monotonic() - self._ran_from > STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            self._say(
                "warning",
                f"broker ended with code {self.broker.returncode}; starting it again in {backoff_s:.1f} s "
                f"(log: {self.broker.log_path})",
            )
            await self.broker.stop()
            while self.state != "running":
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
                await self._could_live()
                self.restarts += 1
                try:
                    await self.start()
                except (HeadwaterError, OSError) as error:
                    self.state, self.error = "restarting", str(error)
                    self._say(
                        "error", f"the broker did not start: {error}; trying again in {backoff_s:.1f} s"
                    )

    async def _could_live(self) -> None:
        """Wait while its disk is full or read-only: it would end again, each time with more to mend."""
        told: type[HeadwaterError] | None = None
        while (found := obstacle(self._settings)) is not None:
            self.state, self.error = "waiting", str(found)
            if told is not type(found):
                told = type(found)
                self._say("error", f"the broker is not started: {found}")
            await asyncio.sleep(_ROOM_POLL_S)
        if told is not None:
            self._say("info", "the broker's disk is well again")
