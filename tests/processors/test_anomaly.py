"""The anomaly fold: signals in, findings out, a state that can be saved."""

from __future__ import annotations

import random

import msgspec

from processors.anomaly import METRICS, Anomaly, Watched
from schemas import events as e


def call(latency_ms: float, *, failed: bool = False) -> e.Signal:
    """One call of a tool."""
    return e.Signal(
        component="tool:search",
        kind="call",
        name="latency_ms",
        value=latency_ms,
        unit="ms",
        failed=failed,
        error_type="Timeout" if failed else None,
    )


def feed(state: Watched, signals: list[e.Signal]) -> list[e.AnomalyDetected]:
    """Everything that the fold yields, an event every two seconds."""
    fold = Anomaly()
    found = []
    for i, signal in enumerate(signals):
        found += [x for x in fold.on_event(state, signal, 1.7e9 + 2 * i) if isinstance(x, e.AnomalyDetected)]
    return found


def usual(count: int, seed: int = 1) -> list[e.Signal]:
    """Lognormal latencies around 200 ms."""
    rng = random.Random(seed)
    return [call(200 * rng.lognormvariate(0, 0.25)) for _ in range(count)]


def test_a_tool_that_turns_slow_is_found_and_explained() -> None:
    """Five times the latency: one finding within ten calls, in words and numbers."""
    state = Watched()
    assert feed(state, usual(100)) == []
    slow = [call(s.value * 5) for s in usual(10, seed=2) if s.value is not None]
    found = feed(state, slow)
    assert found
    assert found[0].metric == "latency_ms"
    assert 150 < found[0].expected < 300
    assert found[0].score >= found[0].threshold
    assert "tool:search" in found[0].summary
    assert "ms" in found[0].summary


def test_a_burst_of_failures_is_found() -> None:
    """Calls that used to work and now fail: one finding on the failure rate."""
    state = Watched()
    feed(state, usual(100))
    found = [f for f in feed(state, [call(200, failed=True) for _ in range(20)]) if f.detector == "failures"]
    assert len(found) == 1
    assert "Timeout" in found[0].summary


def test_the_state_survives_being_saved_in_the_middle() -> None:
    """Saved and loaded between any two signals, the fold says the same."""
    signals = usual(120) + [call(1500) for _ in range(5)]
    whole = feed(Watched(), signals)
    state = Watched()
    parts = feed(state, signals[:77])
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Watched)
    fold = Anomaly()
    for i, signal in enumerate(signals[77:], 77):
        parts += [x for x in fold.on_event(state, signal, 1.7e9 + 2 * i) if isinstance(x, e.AnomalyDetected)]
    assert parts == whole


def test_metrics_of_one_component_are_bounded() -> None:
    """A component that uses values as metric names does not grow without end."""
    state = Watched()
    feed(state, [e.Signal(component="c", kind="metric", name=f"m{i}", value=1.0) for i in range(500)])
    assert len(state.metrics) == METRICS
