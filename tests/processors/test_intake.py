"""Intake: what each raw event says about a component."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from processors.intake import Intake
from schemas import events as e
from schemas import topics
from tests.schemas.samples import events_of

TOOL: dict[str, Any] = {"agent_id": "a", "tool_name": "search", "call_id": "1"}
LLM: dict[str, Any] = {"agent_id": "a", "call_id": "1", "provider_name": "openai", "request_model": "m"}

CASES: list[tuple[e.Event, e.Signal]] = [
    (
        e.ToolCallCompleted(**TOOL, latency_ms=12.5),
        e.Signal(
            component="tool:search",
            kind="call",
            name="latency_ms",
            value=12.5,
            unit="ms",
            failed=False,
            agent_id="a",
        ),
    ),
    (
        e.ToolCallCompleted(**TOOL),
        e.Signal(
            component="tool:search", kind="call", name="latency_ms", unit="ms", failed=False, agent_id="a"
        ),
    ),
    (
        e.ToolCallFailed(**TOOL, error_type="timeout", latency_ms=9.0),
        e.Signal(
            component="tool:search",
            kind="call",
            name="latency_ms",
            value=9.0,
            unit="ms",
            failed=True,
            error_type="timeout",
            agent_id="a",
        ),
    ),
    (
        e.LlmCallCompleted(
            **LLM, response_model="m-2026", input_tokens=7, output_tokens=3, cost_usd=0.5, latency_ms=800.0
        ),
        e.Signal(
            component="model:m",
            kind="call",
            name="latency_ms",
            value=800.0,
            unit="ms",
            failed=False,
            agent_id="a",
            input_tokens=7,
            output_tokens=3,
            cost_usd=0.5,
        ),
    ),
    (
        e.LlmCallFailed(**LLM, error_type="rate_limit"),
        e.Signal(
            component="model:m",
            kind="call",
            name="latency_ms",
            unit="ms",
            failed=True,
            error_type="rate_limit",
            agent_id="a",
        ),
    ),
    (
        e.ErrorReported(component="db", error_type="disk_full", severity="critical", agent_id="a"),
        e.Signal(
            component="db",
            kind="error",
            name="disk_full",
            error_type="disk_full",
            severity="critical",
            agent_id="a",
        ),
    ),
    (
        e.MetricReported(component="host:1", name="cpu", value=0.0, unit="%"),
        e.Signal(component="host:1", kind="metric", name="cpu", value=0.0, unit="%"),
    ),
    (
        e.AgentHeartbeat(agent_id="a", load=1.5, version="2"),
        e.Signal(component="agent:a", kind="heartbeat", name="load", value=1.5, unit="1", agent_id="a"),
    ),
    *(
        (
            e.RunFinished(run_id="r", agent_id="a", outcome=outcome, score=0.25),
            e.Signal(component="agent:a", kind="run", name=outcome, value=0.25, failed=failed),
        )
        for outcome, failed in [("success", False), ("failure", True), ("cancelled", None), ("unknown", None)]
    ),
]


@pytest.mark.parametrize(("event", "expected"), CASES, ids=lambda x: type(x).__name__)
def test_each_event_has_its_signal(event: e.Event, expected: e.Signal) -> None:
    """Latency, failure, tokens, cost and load of the event are the signal's, about the right component."""
    (signal,) = Intake().on_event(None, event, 0.0)
    assert isinstance(signal, e.Signal)
    assert signal.model_dump(exclude={"agent_id"}) == expected.model_dump(exclude={"agent_id"})
    assert signal.agent_id == getattr(event, "agent_id", None)


def test_every_accepted_type_is_tried() -> None:
    """The table above has all of the types that intake accepts."""
    assert {type(event) for event, _ in CASES} == set(Intake.accepts)


@pytest.mark.parametrize("model", Intake.accepts, ids=lambda m: m.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_event_gives_one_signal_of_its_component(model: type[e.Event], data: st.DataObject) -> None:
    """Whatever the values, one signal comes out, the same each time, and absent values stay absent."""
    event = data.draw(events_of(model))
    first, again = (tuple(Intake().on_event(None, event, 0.0)) for _ in range(2))
    assert first == again
    ((signal,)) = first
    assert isinstance(signal, e.Signal)
    assert signal.component.endswith(str(topics.key_of(event)))
    for field in ("latency_ms", "value", "load", "score"):
        if hasattr(event, field):
            assert signal.value == getattr(event, field)


def test_what_it_reads_and_what_not() -> None:
    """It reads every raw topic; what it leaves alone says nothing about health."""
    assert Intake.topics == topics.RAW
    left = {event for topic in topics.RAW for event in topic.events} - set(Intake.accepts)
    assert left == {
        e.AgentAnnounced,
        e.AgentRetired,
        e.MessagePosted,
        e.ToolCallRequested,
        e.LlmCallRequested,
        e.RunStarted,
        e.TaskRequested,
        e.FaultInjected,
    }


def test_too_long_a_name_is_refused_not_cut() -> None:
    """A tool name of 256 characters has no room for its prefix: intake raises, so that it is a dead letter."""
    with pytest.raises(ValidationError, match="component"):
        list(
            Intake().on_event(None, e.ToolCallCompleted(agent_id="a", tool_name="x" * 256, call_id="1"), 0.0)
        )
