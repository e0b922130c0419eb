"""What breaks when: a seeded plan of faults, one at a time, known before anything is simulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

Kind = Literal["slow", "errors", "outage", "overload"]
FIRST_S: Final = (25.0, 35.0)
"""The first fault begins so long after the start: a baseline is there, and nobody waits for a minute."""
PAUSE_S: Final = (40.0, 90.0)
"""Between the end of one fault and the start of the next."""


@dataclass(frozen=True)
class Fault:
    """One fault: what, where, how hard, when (seconds since 1970).

    `factor` by kind: latency multiplier (slow), probability of failure (errors, outage), load (overload).
    """

    kind: Kind
    component: str
    factor: float
    start: float
    duration_s: float

    @property
    def end(self) -> float:
        """When it is over."""
        return self.start + self.duration_s


@dataclass(frozen=True)
class Targets:
    """The components that can break, at least one of each kind."""

    tools: Sequence[str]
    models: Sequence[str]
    agents: Sequence[str]


def plan(seed: str, targets: Targets, start: float) -> Iterator[Fault]:
    """Endless faults in time order, none overlapping; the first a slow tool, then each kind in turn."""
    random = Random(f"faults:{seed}")  # noqa: S311 - a simulation, no secret
    kinds: list[Kind] = ["slow", "errors", "outage", "overload"]
    turn: list[Kind] = ["slow", *random.sample(kinds[1:], 3)]
    at = start + random.uniform(*FIRST_S)
    while True:
        for kind in turn:
            fault = _fault(kind, at, targets, random)
            yield fault
            at = fault.end + random.uniform(*PAUSE_S)
        turn = random.sample(kinds, len(kinds))


def _fault(kind: Kind, at: float, targets: Targets, random: Random) -> Fault:
    match kind:
        case "slow":
            component, factor, duration = (
                random.choice(targets.tools),
                random.uniform(6.0, 10.0),
                (20.0, 35.0),
            )
        case "errors":
            component, factor, duration = random.choice(targets.tools), random.uniform(0.6, 0.9), (20.0, 35.0)
        case "outage":
            component, factor, duration = random.choice(targets.models), 1.0, (15.0, 25.0)
        case "overload":
            component, factor, duration = (
                random.choice(targets.agents),
                random.uniform(1.6, 2.4),
                (30.0, 45.0),
            )
    return Fault(kind, component, round(factor, 2), at, round(random.uniform(*duration), 1))
