"""Runs all processes of one instance: the broker, then folds, views and serve, and the simulated fleet.

Children import while the broker boots and wait for the word that it answers and has its topics.
They stop from the outside in: who produces, who answers, who decides, who reads, then the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

from schemas.errors import HeadwaterError
from streams.broker import Broker
from streams.doctor.machine import kafka_jars
from streams.settings import Settings
from streams.supervision.child import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Child, Once, Say, rotate
from streams.supervision.instance import instance_lock, refuse_taken_ports, take_instance
from streams.supervision.status import ProcessStatus, State, read

STOP_ORDER = ("simulate", "serve", "reactors", "folds", "views")
# Together under the 5 s that a person waits after Ctrl-C.
CHILD_PATIENCE_S = 0.8
CHILDREN_DEADLINE_S = 2.6
BROKER_DEADLINE_S = 1.8
_POLL_S = 0.25


class Supervisor:
    """All processes of one instance. `start`, then wait for whatever you like, then `stop`."""

    def __init__(self, settings: Settings, say: Say, *, simulate: bool = True, agents: int = 12) -> None:
        self.settings = settings
        self.say = say
        self.broker = Broker(settings) if settings.embedded else None
        self.broker_restarts = 0
        self.broker_state = "waiting" if settings.embedded else "external"
        self.children = {name: Child(settings, name, say) for name in ("folds", "views", "serve", "reactors")}
        if simulate:
            command = (sys.executable, "-m", "streams", "simulate", "--agents", str(agents))
            self.children["simulate"] = Child(settings, "simulate", say, command)
        self.started_at = time.time()
        self._lock = instance_lock(settings)
        self._status: ProcessStatus | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def prepare(self) -> None:
        """Take the folder and look at the ports. Raises ConfigurationError where another has them."""
        take_instance(self._lock)
        try:
            refuse_taken_ports(self.settings)
        except BaseException:
            self._lock.release()
            raise
        self._clear_run_folder()
        self._status = ProcessStatus(self.settings, "up")
        self._tell("starting")

    async def start(self) -> None:
        """Start everything, after `prepare`.

        Raises HeadwaterError, with all stopped again, where that cannot be.
        """
        try:
            topics = await Once.spawn(self.settings, "topics", "prepare")
            for child in self.children.values():
                await child.start()
            await self._start_broker()
            for line in await topics.run():
                self.say("info", line)
            for child in self.children.values():
                child.go()
        except BaseException:
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._keep_broker()), asyncio.create_task(self._report())]

    @property
    def ready(self) -> bool:
        """Whether every process says that it runs."""
        return self.broker_state in ("running", "external") and all(
            c.state == "running" for c in self.children.values()
        )

    @property
    def state(self) -> State:
        """In a word: how far all of it is."""
        return "stopping" if self._stopping else "running" if self.ready else "starting"

    async def stop(self) -> None:
        """Stop everything, in order and in under 5 s; what does not stop is killed."""
        self._stopping = True
        self._tell("stopping")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        deadline = time.monotonic() + CHILDREN_DEADLINE_S
        children = [self.children[name] for name in STOP_ORDER if name in self.children]
        for child in children:
            child.terminate()
            left_s = max(0.0, deadline - time.monotonic())
            await child.ended(min(CHILD_PATIENCE_S, left_s))
        for child in children:
            if not await child.ended(max(0.0, deadline - time.monotonic())):
                self.say("warning", f"{child.name} did not stop in time: killed")
                child.kill()
                await child.ended(1.0)
        if self.broker is not None:
            await self.broker.stop(BROKER_DEADLINE_S)
            self.broker_state = "stopped"
        if self._status is not None:
            self._status.close()
        self._lock.release()

    def kill(self) -> None:
        """End every process now: for a second Ctrl-C."""
        for child in self.children.values():
            child.kill()
        if self.broker is not None:
            self.broker.kill()

    def pids(self) -> dict[str, int | None]:
        """Process ids by name, the broker's included."""
        own = {"broker": self.broker.pid} if self.broker is not None else {}
        return own | {name: child.pid for name, child in self.children.items()}

    async def _start_broker(self) -> None:
        if self.broker is None:
            return
        self.broker_state = "starting"
        if not kafka_jars():
            self.say("info", "fetching Apache Kafka from Maven Central, 43 MB, once")
        rotate(self.broker.log_path)
        began = time.monotonic()
        await self.broker.start()
        self.broker_state = "running"
        self.say("info", f"broker answers after {time.monotonic() - began:.1f} s (pid {self.broker.pid})")

    async def _keep_broker(self) -> None:
        """Start the broker again when it dies; its clients wait for it by themselves."""
        backoff_s = FIRST_BACKOFF_S
        while self.broker is not None:
            await asyncio.sleep(_POLL_S)
            if self.broker.pid is not None:
                continue
            self.broker_state = "restarting"
            self.say(
                "warning",
                f"broker ended with code {self.broker.returncode}; starting it again in {backoff_s:.1f} s "
                f"(log: {self.broker.log_path})",
            )
            await self.broker.stop()
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
            self.broker_restarts += 1
            try:
                await self._start_broker()
            except HeadwaterError as error:
                self.say("error", f"the broker did not start: {error}")
            else:
                backoff_s = FIRST_BACKOFF_S

    async def _report(self) -> None:
        """Keep our own status file fresh: `headwater status` reads pids and restarts there."""
        while True:
            self._tell(self.state)
            await asyncio.sleep(1.0)

    def _tell(self, state: State) -> None:
        if self._status is None:
            return
        restarts = {name: c.restarts for name, c in self.children.items()}
        states = {name: c.state for name, c in self.children.items()}
        if self.broker is not None:
            restarts["broker"], states["broker"] = self.broker_restarts, self.broker_state
        with contextlib.suppress(OSError):  # a full disk is the guard's to report; stopping must go on
            self._status.set(state, pids=self.pids(), restarts=restarts, states=states)

    def _clear_run_folder(self) -> None:
        """Take away what processes of an earlier start left there; those run alone are let be."""
        folder = self.settings.run_folder
        for path in [*folder.glob("*.json"), *folder.glob("*.prom"), *folder.glob("*.tmp")]:
            said = read(path.with_suffix(".json"))
            if said is None or not said["alive"]:
                path.unlink(missing_ok=True)
