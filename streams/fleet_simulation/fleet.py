"""The simulated fleet as a pure source of timed events: (seed, agents, start, rate) decide everything.

Every hand of an agent, every heartbeat and the faults are generators that make events and yield how
long they sleep; a heap wakes them in order of time. So an hour is simulated in seconds, and the same
code paced by the wall clock is `streams.simulate`.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from random import Random
from typing import NamedTuple

from schemas import events as e
from schemas.envelope import derived_id
from streams.fleet_simulation.conditions import USUAL_LOAD, Conditions, activity
from streams.fleet_simulation.faults import Targets, plan
from streams.fleet_simulation.hand import Hand
from streams.fleet_simulation.pace import pace_for
from streams.fleet_simulation.roster import TOOLS, VERSION, Agent, roster

DEFAULT_AGENTS = 12
DEFAULT_SEED = 7
DEFAULT_RATE = 50.0

Sleep = Generator[float, None, None]


class Timed(NamedTuple):
    """One event of the fleet. `time` is seconds since 1970; `id` is unique over fleets and restarts."""

    event: e.Event
    time: float
    id: str
    correlation_id: str | None
    causation_id: str | None


class Fleet:
    """A fleet at one moment of its time; `advance` moves it on.

    `start` is seconds since 1970; the same four arguments give the same events, other ones give other
    ids. Raises ConfigurationError for no agents or no rate.
    """

    def __init__(
        self,
        seed: int = DEFAULT_SEED,
        agents: int = DEFAULT_AGENTS,
        start: float = 0.0,
        rate: float = DEFAULT_RATE,
    ) -> None:
        label = f"{seed}:{agents}:{rate!r}:{start!r}"
        self.pace = pace_for(agents, rate)
        self.agents = roster(agents)
        self.random = Random(label)  # noqa: S311 - a simulation, no secret
        self.now = start
        self.prefix = derived_id("simulate", label)[:16]
        models = sorted({a.role.model.name for a in self.agents})
        faults = plan(
            label,
            Targets(
                [f"tool:{t}" for t in TOOLS],
                [f"model:{m}" for m in models],
                [f"agent:{a.id}" for a in self.agents],
            ),
            start,
        )
        self.conditions = Conditions(faults, self.random)
        self.open_runs: dict[str, str] = {}
        """Runs under way: id of the run and its agent's."""
        self._made: list[Timed] = []
        self._count = 0
        self._sleepers: list[tuple[float, int, Sleep]] = []
        self._wakes = 0
        self._people()

    def advance(self, until: float) -> list[Timed]:
        """The events up to and including the moment `until`, in order of time."""
        sleepers = self._sleepers
        while sleepers[0][0] <= until:
            self._wake()
        self.now = max(self.now, until)
        made, self._made = self._made, []
        return made

    def events(self) -> Iterator[Timed]:
        """All events in order of time, without end."""
        while True:
            self._wake()
            made, self._made = self._made, []
            yield from made

    def stop(self) -> list[Timed]:
        """The fleet goes home now: open runs are cancelled, agents retire. Nothing may follow."""
        for run_id, agent_id in self.open_runs.items():
            self.emit(
                e.RunFinished(
                    run_id=run_id, agent_id=agent_id, outcome="cancelled", reason="the simulation stopped"
                ),
                run_id,
            )
        for agent in self.agents:
            self.emit(e.AgentRetired(agent_id=agent.id, reason="the simulation stopped"))
        self._sleepers.clear()
        made, self._made = self._made, []
        return made

    def emit(self, event: e.Event, run_id: str | None = None, cause: str | None = None) -> str:
        """The event happens now; returns its id."""
        event_id = self.new_id()
        self._made.append(Timed(event, round(self.now, 6), event_id, run_id, cause))
        return event_id

    def new_id(self) -> str:
        """An id that no other event, call or run of this or another fleet has."""
        self._count += 1
        return f"{self.prefix}-{self._count:x}"

    def _people(self) -> None:
        self._begin(self._break_things())
        self._begin(self._measure())
        for agent in self.agents:
            self._begin(self._live(agent))
            for _ in range(self.pace.hands):
                self._begin(Hand(self, agent).work())

    def _begin(self, sleeper: Sleep) -> None:
        heapq.heappush(self._sleepers, (self.now, self._wakes, sleeper))
        self._wakes += 1  # of equal times the one that asked first is woken first

    def _wake(self) -> None:
        self.now, _, sleeper = self._sleepers[0]
        seconds = next(sleeper)
        heapq.heapreplace(self._sleepers, (self.now + seconds, self._wakes, sleeper))
        self._wakes += 1

    def _break_things(self) -> Sleep:
        while True:
            fault = self.conditions.fault
            yield fault.start - self.now
            self.emit(
                e.FaultInjected(
                    component=fault.component,
                    fault=fault.kind,
                    factor=fault.factor,
                    duration_s=fault.duration_s,
                )
            )
            yield fault.end - self.now
            self.conditions.over()

    def _measure(self) -> Sleep:
        """Tasks that wait, a slow wave with noise around 20 times the day's activity."""
        drift = 0.0
        while True:
            drift = 0.9 * drift + self.random.gauss(0.0, 1.0)
            depth = max(0.0, round(20.0 * activity(self.now) + drift))
            self.emit(e.MetricReported(component="queue:tasks", name="depth", value=depth, unit="1"))
            yield self.pace.metric_s

    def _live(self, agent: Agent) -> Sleep:
        role, component = agent.role, f"agent:{agent.id}"
        self.emit(
            e.AgentAnnounced(
                agent_id=agent.id,
                role=role.name,
                version=VERSION,
                capabilities=list(role.tools),
                models=[role.model.name],
            )
        )
        yield self.random.uniform(0.0, self.pace.heartbeat_s)
        drift = 0.0
        while True:
            drift = 0.7 * drift + self.random.gauss(0.0, 0.03)
            load = self.conditions.overload(component, self.now)
            if load is None:
                load = max(0.05, USUAL_LOAD * activity(self.now) + drift)
            self.emit(e.AgentHeartbeat(agent_id=agent.id, load=round(load, 3), version=VERSION))
            yield self.pace.heartbeat_s


def timed_events(
    seed: int = DEFAULT_SEED, agents: int = DEFAULT_AGENTS, start: float = 0.0, rate: float = DEFAULT_RATE
) -> Iterator[Timed]:
    """The endless events of one fleet, in order of time; see `Fleet`."""
    return Fleet(seed, agents, start, rate).events()
