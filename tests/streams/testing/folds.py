"""Folds as users write them: one that is right, and others that each do one thing that folds must not."""

from __future__ import annotations

import random
import socket
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from river import stats

from processors.fold import Fold, Output, Wake
from schemas import topics
from schemas.events import AnomalyDetected, Event, Signal

HOUR = 3600.0


class Failures(msgspec.Struct):
    """Failed calls of the hour that goes on, and a model over the hours before."""

    since: float = 0.0
    failed: int = 0
    agents: dict[str, int] = {}
    usual: Any = None


def found(component: str, value: float, expected: float = 0.0, metric: str = "failures") -> AnomalyDetected:
    """What all of them yield."""
    return AnomalyDetected(
        component=component,
        metric=metric,
        value=value,
        expected=expected,
        score=1,
        threshold=1,
        severity="error",
        detector="own",
    )


class Hourly(Fold[Failures]):
    """Says how many calls of a component failed in an hour, at its end; every third failure at once, too."""

    name = "hourly"
    topics = (topics.SIGNALS,)
    accepts = (Signal,)
    emits: ClassVar[tuple[type[Event], ...]] = (AnomalyDetected,)
    state = Failures

    def initial(self, key: str) -> Failures:
        return Failures(usual=stats.Mean())

    def on_event(self, state: Failures, event: Event, at: float) -> Iterable[Output]:
        assert isinstance(event, Signal)
        if not event.failed:
            return
        if not state.failed:
            state.since = at
            yield Wake(at + HOUR)
        state.failed += 1
        agent = event.agent_id or ""
        state.agents[agent] = state.agents.get(agent, 0) + 1
        if state.failed % 3 == 0:
            yield found(event.component, state.failed)

    def on_wake(self, state: Failures, at: float) -> Iterable[Output]:
        worst = max(state.agents, key=lambda agent: (state.agents[agent], agent))
        yield found(f"agent:{worst}", state.failed, state.usual.get(), "hour")
        state.usual.update(state.failed)
        state.failed, state.agents = 0, {}


class Bad(Hourly):
    """Hourly, and something else at each event."""

    name = "bad"

    def on_event(self, state: Failures, event: Event, at: float) -> Iterable[Output]:
        self.also(state, at)
        return list(super().on_event(state, event, at))

    def also(self, state: Failures, at: float) -> None:
        """What it must not do."""


class AsksTime(Bad):
    def also(self, state: Failures, at: float) -> None:
        time.time()


class AsksNow(Bad):
    def also(self, state: Failures, at: float) -> None:
        datetime.now(UTC)


class AsksToday(Bad):
    def also(self, state: Failures, at: float) -> None:
        date.today()  # noqa: DTZ011


class AsksChance(Bad):
    def also(self, state: Failures, at: float) -> None:
        random.choice([1, 2])


class MakesIds(Bad):
    def also(self, state: Failures, at: float) -> None:
        uuid.uuid4()


class ReadsFiles(Bad):
    def also(self, state: Failures, at: float) -> None:
        Path(__file__).read_text()


class Connects(Bad):
    def also(self, state: Failures, at: float) -> None:
        with socket.socket() as s:
            s.settimeout(0.01)


class KeepsInItself(Bad):
    count = 0

    def also(self, state: Failures, at: float) -> None:
        self.count += 1


class KeepsDeepInItself(Bad):
    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = {"at": []}

    def also(self, state: Failures, at: float) -> None:
        self.seen["at"].append(at)


SEEN: list[float] = []


class KeepsInItsModule(Hourly):
    """Counts in a global, and says what it counted."""

    name = "global"

    def on_event(self, state: Failures, event: Event, at: float) -> Iterable[Output]:
        SEEN.append(at)
        yield found("c", len(SEEN))


class Order(msgspec.Struct):
    """Agents in no order."""

    agents: set[str] = set()


class DependsOnOrder(Fold[Order]):
    """Says which agent stands first in a set: another one in each process."""

    name = "order"
    topics = (topics.SIGNALS,)
    accepts = (Signal,)
    emits = (AnomalyDetected,)
    state = Order

    def initial(self, key: str) -> Order:
        return Order()

    def on_event(self, state: Order, event: Event, at: float) -> Iterable[Output]:
        assert isinstance(event, Signal)
        state.agents.add(event.agent_id or "")
        yield found(next(iter(state.agents)), 1)


class Raises(Bad):
    def also(self, state: Failures, at: float) -> None:
        raise LookupError("no such thing")


class ReturnsNothing(Hourly):
    name = "nothing"

    def on_event(self, state: Failures, event: Event, at: float) -> Iterable[Output]:
        return None  # type: ignore[return-value]


class YieldsText(Hourly):
    name = "text"

    def on_event(self, state: Failures, event: Event, at: float) -> Iterable[Output]:
        yield "failed"  # type: ignore[misc]


class YieldsUndeclared(Hourly):
    name = "undeclared"

    def on_event(self, state: Failures, event: Event, at: float) -> Iterable[Output]:
        yield Signal(component="c", kind="metric", name="n")


class YieldsTooMuch(Hourly):
    name = "loud"

    def on_event(self, state: Failures, event: Event, at: float) -> Iterable[Output]:
        yield found("c", 1).model_copy(update={"summary": "x" * 2_000_000})


class AnswersItself(Hourly):
    """Each signal leads to another."""

    name = "echo"
    emits = (Signal,)

    def on_event(self, state: Failures, event: Event, at: float) -> Iterable[Output]:
        yield event


class WakesAtOnce(Hourly):
    """Asks to be woken at the very moment that it is woken."""

    name = "awake"

    def on_wake(self, state: Failures, at: float) -> Iterable[Output]:
        yield Wake(at)


class WakesWithoutState(Fold[None]):
    name = "stateless"
    topics = (topics.SIGNALS,)
    accepts = (Signal,)

    def on_event(self, state: None, event: Event, at: float) -> Iterable[Output]:
        yield Wake(at + 1)


class BeginsWrong(Hourly):
    name = "begins"

    def initial(self, key: str) -> Failures:
        return {}  # type: ignore[return-value]


class Opaque:
    """Nothing that MessagePack has."""

    def __reduce__(self) -> str:
        raise TypeError("cannot be saved")


class KeepsOpaque(Bad):
    def also(self, state: Failures, at: float) -> None:
        state.usual = Opaque()


class KeepsFloatsAsKeys(Bad):
    def also(self, state: Failures, at: float) -> None:
        state.agents[at] = 1  # type: ignore[index]


class KeepsTooMuch(Bad):
    def also(self, state: Failures, at: float) -> None:
        state.agents["x" * 2_000_000] = 1


class Pair(msgspec.Struct):
    """A field that says less than it holds."""

    last: list[object] = []


class KeepsTuples(Fold[Pair]):
    """A tuple comes back as a list."""

    name = "tuples"
    topics = (topics.SIGNALS,)
    accepts = (Signal,)
    state = Pair

    def initial(self, key: str) -> Pair:
        return Pair()

    def on_event(self, state: Pair, event: Event, at: float) -> Iterable[Output]:
        state.last = [(1, at)]
        return ()
