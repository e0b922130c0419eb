"""How many hands the fleet needs, and how long they rest between steps, for a wanted rate of events."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from schemas.errors import ConfigurationError

STEPS_PER_RUN: Final = (4, 10)
"""Fewest and most steps of a run; every number between is as likely."""
TOOL_SHARE: Final = 0.85
MESSAGE_SHARE: Final = 0.35
HEARTBEAT_S: Final = 2.0
METRIC_S: Final = 1.0
STEP_S: Final = 0.8
"""Mean time that an LLM call and a tool call take together."""
_BUSY: Final = 0.6
"""Share of its time that a hand works, at most: where more is asked, there are more hands."""
_HEARTBEAT_SHARE: Final = 0.15
_METRIC_SHARE: Final = 0.05


class Pace(NamedTuple):
    """`hands` work for each agent side by side; a step and the rest after it take `cycle_s` on average."""

    hands: int
    cycle_s: float
    heartbeat_s: float
    metric_s: float


def pace_for(agents: int, rate: float) -> Pace:
    """The pace at which the whole fleet makes `rate` events a second on average over a day.

    Raises ConfigurationError.
    """
    if agents < 1:
        raise ConfigurationError(f"a fleet of {agents} agents does nothing", hint="--agents 1 or more")
    if not 0 < rate < math.inf:
        raise ConfigurationError(f"{rate} events a second is no rate", hint="--rate above 0")
    heartbeat_s = max(HEARTBEAT_S, agents / (_HEARTBEAT_SHARE * rate))
    metric_s = max(METRIC_S, 1 / (_METRIC_SHARE * rate))
    steps_a_second = (rate - agents / heartbeat_s - 1 / metric_s) / events_a_step()
    cycle_s = agents / steps_a_second
    hands = math.ceil(STEP_S / (_BUSY * cycle_s))
    return Pace(hands, hands * cycle_s, heartbeat_s, metric_s)


def events_a_step() -> float:
    """Events of one step on average: a call of a model, mostly one of a tool, its share of the run's."""
    return 2.0 + 2.0 * TOOL_SHARE + MESSAGE_SHARE + 2.0 / (sum(STEPS_PER_RUN) / 2)
