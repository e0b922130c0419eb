"""The transformation of the latency benchmark: the output carries the time at which its input was sent."""

from __future__ import annotations

from schemas import events as e


def echo(event: e.Signal) -> e.AnomalyDetected:
    """`value` is the monotonic clock, seconds, at the call that produced the input."""
    return e.AnomalyDetected(
        component=event.component,
        metric=event.name,
        value=event.value or 0.0,
        expected=0.0,
        score=1.0,
        threshold=1.0,
        severity="info",
        detector="echo",
    )
