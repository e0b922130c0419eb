"""Runs all processes of one instance: the broker, then folds, views and serve, and the simulated fleet.

Children import while the broker boots and wait for the word that it answers and has its topics.
They stop from the outside in: who produces, who answers, who decides, who reads, then the broker.
"""

from __future__ import annotations

import asyncio
import sys
import time

from streams.disk import obstacle
from streams.settings import Settings
from streams.supervision.broker_keeper import BrokerKeeper
from streams.supervision.child import Child, Once, Say
from streams.supervision.instance import instance_lock, refuse_taken_ports, take_instance
from streams.supervision.status import ProcessStatus, State, read

STOP_ORDER = ("simulate", "serve", "reactors", "folds", "views")
# Together under the 5 s that a person waits after Ctrl-C.
CHILD_PATIENCE_S = 0.8
CHILDREN_DEADLINE_S = 2.6
BROKER_DEADLINE_S = 1.8


class Supervisor:
    """All processes of one instance. `start`, then wait for whatever you like, then `stop`."""

    def __init__(self, settings: Settings, say: Say, *, simulate: bool = True, agents: int = 12) -> None:
        self.settings = settings
        self.say = say
        self.broker = BrokerKeeper(settings, say) if settings.embedded else None
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
        """Take the folder and look at the ports.

        Raises ConfigurationError where another has them, DiskFull or DiskReadOnly where nothing could live there.
        """
        if (found := obstacle(self.settings)) is not None:
            raise found
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
            if self.broker is not None:
                await self.broker.start()
            for line in await topics.run():
                self.say("info", line)
            for child in self.children.values():
                child.go()
        except BaseException:
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._report())]
        if self.broker is not None:
            self._tasks.append(asyncio.create_task(self.broker.keep()))

    @property
    def ready(self) -> bool:
        """Whether every process says that it runs."""
        return all(one.state == "running" for one in self._kept.values())

    @property
    def _kept(self) -> dict[str, Child | BrokerKeeper]:
        """All that is kept running, by name."""
        kept: dict[str, Child | BrokerKeeper] = {} if self.broker is None else {"broker": self.broker}
        return kept | self.children

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
            await self.broker.broker.stop(BROKER_DEADLINE_S)
            self.broker.state = "stopped"
        if self._status is not None:
            self._status.close()
        self._lock.release()

    def kill(self) -> None:
        """End every process now: for a second Ctrl-C."""
        for child in self.children.values():
            child.kill()
        if self.broker is not None:
            self.broker.broker.kill()

    def pids(self) -> dict[str, int | None]:
        """Process ids by name, the broker's included."""
        return {name: one.pid for name, one in self._kept.items()}

    async def _report(self) -> None:
        """Keep our own status file fresh: `headwater status` reads pids and restarts there."""
        while True:
            self._tell(self.state)
            await asyncio.sleep(1.0)

    def _tell(self, state: State) -> None:
        if self._status is None:
            return
        kept = self._kept
        restarts = {name: one.restarts for name, one in kept.items()}
        states = {name: one.state for name, one in kept.items()}
        errors = {name: one.error for name, one in kept.items() if one.error}
        self._status.set(state, pids=self.pids(), restarts=restarts, states=states, errors=errors)

    def _clear_run_folder(self) -> None:
        """Take away what processes of an earlier start left there; those run alone are let be."""
        folder = self.settings.run_folder
        for path in [*folder.glob("*.json"), *folder.glob("*.prom"), *folder.glob("*.tmp")]:
            said = read(path.with_suffix(".json"))
            if said is None or not said["alive"]:
                path.unlink(missing_ok=True)
