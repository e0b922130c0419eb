"""Anomaly: a streaming detector per component and metric, and one for bursts of failures."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from processors import detector, failures
from processors.detector import Detector
from processors.failures import Failures
from processors.fold import Fold
from schemas import events as e
from schemas import topics

METRICS = 64
"""Metrics of one component that are watched; a component with more is using names as values."""

_WORDS = {
    "extreme": "far from its usual level",
    "shift": "moved to another level",
    "season": "unusual for the time of day",
}


class Watched(msgspec.Struct):
    """State of one component: a detector by metric, and its failures."""

    metrics: dict[str, Detector] = {}
    failures: Failures = msgspec.field(default_factory=Failures)


class Anomaly(Fold[Watched]):
    """Yields one event where a metric leaves its usual course, or failures come in a burst.

    While an incident goes on it yields another only if it gets much worse.
    """

    name = "anomaly"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    emits = (e.AnomalyDetected,)
    state = Watched

    def initial(self, key: str) -> Watched:
        """Nothing known yet."""
        return Watched()

    def on_event(self, state: Watched, event: e.Event, at: float) -> Iterator[e.Event]:
        """Feed the detectors that the signal concerns."""
        assert isinstance(event, e.Signal)
        if event.kind != "error" and event.value is not None:
            yield from self._metric(state, event, event.value, at)
        if event.kind in {"call", "run"} and event.failed is not None:
            yield from self._failure(state.failures, event)

    def _metric(self, state: Watched, event: e.Signal, value: float, at: float) -> Iterator[e.Event]:
        # A failed call's latency is another thing than a successful one's: a time-out, or a refusal.
        name = f"{event.name}.failed" if event.failed else event.name
        watched = state.metrics.get(name)
        if watched is None:
            if len(state.metrics) >= METRICS:
                return
            watched = state.metrics[name] = Detector()
        verdict = watched.update(value, at)
        if not verdict.anomalous:
            return
        part = verdict.part or "extreme"
        yield e.AnomalyDetected(
            component=event.component,
            metric=name,
            value=value,
            expected=verdict.expected,
            score=verdict.score,
            threshold=detector.THRESHOLD,
            severity=_severity(verdict.score),
            detector=part,
            unit=event.unit,
            summary=f"{event.component}: {name} is {_number(value, event.unit)}, {_WORDS[part]} "
            f"(expected about {_number(verdict.expected, event.unit)}).",
        )

    def _failure(self, state: Failures, event: e.Signal) -> Iterator[e.Event]:
        usual = state.usual
        if not state.update(bool(event.failed)):
            return
        yield e.AnomalyDetected(
            component=event.component,
            metric="failure_rate",
            value=1.0,
            expected=usual,
            score=state.score,
            threshold=failures.THRESHOLD,
            severity="error",
            detector="failures",
            unit="1",
            summary=f"{event.component}: calls fail in a burst, the last with "
            f"{event.error_type or 'a failed run'} (usually {usual:.1%} fail).",
        )


def _severity(score: float) -> e.Severity:
    """Score 0.5 is one in 10^4 by the series' own history, 0.75 one in 10^12."""
    return "critical" if score >= 0.9 else "error" if score >= 0.75 else "warning"


def _number(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".strip()
