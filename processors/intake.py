"""Intake: turns raw events into signals keyed by component; keeps no state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics


def _tool_completed(event: e.ToolCallCompleted) -> e.Signal:
    return e.Signal(
        component=f"tool:{event.tool_name}",
        kind="call",
        name="latency_ms",
        value=event.latency_ms,
        unit="ms",
        failed=False,
        agent_id=event.agent_id,
    )


def _tool_failed(event: e.ToolCallFailed) -> e.Signal:
    return e.Signal(
        component=f"tool:{event.tool_name}",
        kind="call",
        name="latency_ms",
        value=event.latency_ms,
        unit="ms",
        failed=True,
        error_type=event.error_type,
        agent_id=event.agent_id,
    )


def _llm_completed(event: e.LlmCallCompleted) -> e.Signal:
    return e.Signal(
        component=f"model:{event.request_model}",
        kind="call",
        name="latency_ms",
        value=event.latency_ms,
        unit="ms",
        failed=False,
        agent_id=event.agent_id,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cost_usd=event.cost_usd,
    )


def _llm_failed(event: e.LlmCallFailed) -> e.Signal:
    return e.Signal(
        component=f"model:{event.request_model}",
        kind="call",
        name="latency_ms",
        value=event.latency_ms,
        unit="ms",
        failed=True,
        error_type=event.error_type,
        agent_id=event.agent_id,
    )


def _error(event: e.ErrorReported) -> e.Signal:
    return e.Signal(
        component=event.component,
        kind="error",
        name=event.error_type,
        error_type=event.error_type,
        severity=event.severity,
        agent_id=event.agent_id,
    )


def _metric(event: e.MetricReported) -> e.Signal:
    return e.Signal(
        component=event.component,
        kind="metric",
        name=event.name,
        value=event.value,
        unit=event.unit,
        agent_id=event.agent_id,
    )


def _heartbeat(event: e.AgentHeartbeat) -> e.Signal:
    return e.Signal(
        component=f"agent:{event.agent_id}",
        kind="heartbeat",
        name="load",
        value=event.load,
        unit="1",
        agent_id=event.agent_id,
    )


def _run(event: e.RunFinished) -> e.Signal:
    return e.Signal(
        component=f"agent:{event.agent_id}",
        kind="run",
        name=event.outcome,
        value=event.score,
        failed={"success": False, "failure": True}.get(event.outcome),
        agent_id=event.agent_id,
    )


# A tool or agent name may be 256 characters and gains a prefix: longer ones are cut by no one but
# refused by Signal's model, and the record is a dead letter with that reason.
_SIGNAL_OF: dict[type[e.Event], Callable[[Any], e.Signal]] = {
    e.ToolCallCompleted: _tool_completed,
    e.ToolCallFailed: _tool_failed,
    e.LlmCallCompleted: _llm_completed,
    e.LlmCallFailed: _llm_failed,
    e.ErrorReported: _error,
    e.MetricReported: _metric,
    e.AgentHeartbeat: _heartbeat,
    e.RunFinished: _run,
}


class Intake(Fold[None]):
    """One signal for each raw event that says something about a component's health."""

    name = "intake"
    topics = topics.RAW
    accepts = tuple(_SIGNAL_OF)
    emits = (e.Signal,)

    def on_event(self, state: None, event: e.Event, at: float) -> Iterable[Output]:
        """The event's signal."""
        yield _SIGNAL_OF[type(event)](event)
