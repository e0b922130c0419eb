"""Folds under test: each would betray one kind of fault of the runner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from river import anomaly, stats

from processors.fold import Fold, Output, Wake
from processors.intake import Intake
from schemas import events as e
from schemas import topics

UNLUCKY, TOO_LOUD, CURSED = 13, 77, 99
"""Values on which Chain raises, Loud yields too much, and Silence raises when it is woken."""


def found(
    component: str, detector: str, value: float, expected: float, summary: str = ""
) -> e.AnomalyDetected:
    """What all of them yield."""
    return e.AnomalyDetected(
        component=component,
        metric="m",
        value=value,
        expected=expected,
        score=1,
        threshold=1,
        severity="info",
        detector=detector,
        summary=summary,
    )


def value_of(event: e.Event) -> float:
    """The value of a signal."""
    assert isinstance(event, e.Signal)
    return event.value or 0.0


class Links(msgspec.Struct):
    """A hash over all values seen, in order: one lost, doubled or swapped changes all that follow."""

    component: str
    count: int = 0
    digest: int = 0


class Chain(Fold[Links]):
    """Answers every second signal of a key with its hash so far, twice every sixth; raises on UNLUCKY."""

    name = "chain"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Links

    def initial(self, key: str) -> Links:
        return Links(key.partition("/")[2])

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        state.count += 1
        state.digest = (state.digest * 31 + int(value_of(event)) + int(at)) % 1_000_003
        if state.count % 2 == 0:
            yield found(state.component, self.name, state.digest, state.count)
        if state.count % 6 == 0:
            yield found(state.component, self.name, state.digest, at)
        if value_of(event) == UNLUCKY:
            raise ValueError("unlucky")


class Model(msgspec.Struct):
    """River models, and what they gave last."""

    trees: Any = None
    mean: Any = None
    last: float = 0.0


class Learned(Fold[Model]):
    """Scores every signal by models that learn from each; their outputs depend on all that came before."""

    name = "learned"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Model

    def initial(self, key: str) -> Model:
        return Model(anomaly.HalfSpaceTrees(n_trees=2, height=3, window_size=4, seed=1), stats.EWMean(0.3))

    def on_event(self, state: Model, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        features = {"x": value_of(event) / 100}
        state.last = state.trees.score_one(features)
        state.trees.learn_one(features)
        state.mean.update(value_of(event))
        yield found(event.component, self.name, state.last, state.mean.get())


class Watch(msgspec.Struct):
    """What was heard last of a component, how often it fell silent, and a hash over all of it in order."""

    component: str
    value: float = 0.0
    silences: int = 0
    digest: int = 0


class Silence(Fold[Watch]):
    """Says so when a component is silent for a minute, and once more a minute later; raises on CURSED."""

    name = "silence"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Watch

    def initial(self, key: str) -> Watch:
        return Watch(key.partition("/")[2])

    def on_event(self, state: Watch, event: e.Event, at: float) -> Iterable[Output]:
        state.value = value_of(event)
        state.silences = 0
        state.digest = (state.digest * 31 + int(at)) % 1_000_003
        yield Wake(at + 60)

    def on_wake(self, state: Watch, at: float) -> Iterable[Output]:
        if state.value == CURSED:
            raise RuntimeError("cursed")
        state.silences += 1
        state.digest = (state.digest * 37 + int(at)) % 1_000_003
        yield found(state.component, self.name, state.silences, at)
        if state.silences == 1:
            yield Wake(at + 60)


class Loud(Fold[Links]):
    """Counts; on TOO_LOUD it yields more than a record may hold."""

    name = "loud"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Links

    def initial(self, key: str) -> Links:
        return Links(key.partition("/")[2])

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        state.count += 1
        if value_of(event) == TOO_LOUD:
            yield found(state.component, self.name, 1, 1, "x" * 1_100_000)


class Echo(Fold[None]):
    """Keeps no state; answers every signal."""

    name = "echo"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)

    def on_event(self, state: None, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        yield found(event.component, self.name, value_of(event), at)


def every() -> list[Fold[Any]]:
    """All of them, behind intake."""
    return [Intake(), Chain(), Learned(), Silence(), Loud(), Echo()]
