"""What the world is like at a moment: the daily rhythm, and the fault that is on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Final

from streams.fleet_simulation.faults import Fault

DAY_S: Final = 86_400.0
PEAK_S: Final = 15 * 3600.0
"""Time of day (UTC) of the most work."""
ACTIVITY_SWING: Final = 0.2
LATENCY_SWING: Final = 0.15
LATENCY_SIGMA: Final = 0.25
TOOL_FAILURE: Final = 0.01
MODEL_FAILURE: Final = 0.005
OVERLOAD_SIGMA: Final = 0.05
USUAL_LOAD: Final = 0.5


def activity(at: float) -> float:
    """How busy the fleet is at this time of day; 1 on average."""
    return 1.0 + ACTIVITY_SWING * _wave(at)


def slowness(at: float) -> float:
    """How slow calls are at this time of day; 1 on average."""
    return 1.0 + LATENCY_SWING * _wave(at)


def _wave(at: float) -> float:
    return math.cos(2 * math.pi * (at - PEAK_S) / DAY_S)


class Conditions:
    """Latencies, failures and loads under the daily rhythm and a plan of faults."""

    def __init__(self, faults: Iterator[Fault], random: Random) -> None:
        self._faults = faults
        self._random = random
        self._fault = next(faults)

    @property
    def fault(self) -> Fault:
        """The fault that is on, or the next one."""
        return self._fault

    def over(self) -> None:
        """The fault is over: on to the next one."""
        self._fault = next(self._faults)

    def latency_ms(self, component: str, median_ms: float, at: float) -> float:
        """One call's latency: lognormal, higher at busy times, multiplied where the component is slow."""
        factor = self._factor("slow", component, at) or 1.0
        return self._random.lognormvariate(math.log(median_ms * slowness(at) * factor), LATENCY_SIGMA)

    def tool_fails(self, component: str, at: float) -> bool:
        """Whether one call of a tool fails."""
        return self._random.random() < (self._factor("errors", component, at) or TOOL_FAILURE)

    def model_fails(self, component: str, at: float) -> str | None:
        """The error of one call of a model, None where it answers."""
        if self._factor("outage", component, at):
            return "service_unavailable"
        return "rate_limited" if self._random.random() < MODEL_FAILURE else None

    def overload(self, component: str, at: float) -> float | None:
        """An agent's load where it is overloaded, else None; 1 is all of its capacity."""
        factor = self._factor("overload", component, at)
        return factor and factor * self._random.lognormvariate(0.0, OVERLOAD_SIGMA)

    def _factor(self, kind: str, component: str, at: float) -> float | None:
        fault = self._fault
        on = fault.kind == kind and fault.component == component and fault.start <= at < fault.end
        return fault.factor if on else None
