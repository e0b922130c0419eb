"""What each view counts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from projections.catalog import views
from projections.store import Store
from schemas import events as e
from tests.conftest import NewDatabase
from tests.projections.material import BEGIN, Log, feed, store_at


@pytest.fixture
def store(new_database: NewDatabase) -> Store:
    """An empty store with all views."""
    return store_at(new_database(), views())


def only(store: Store, view: str, table: str | None = None) -> Any:
    """The one row of a view's table."""
    with store.read(view) as reading:
        return reading.connection.execute(reading.tables[view][table or view].select()).one()


def test_components_count_calls_that_said_how_they_ended(store: Store) -> None:
    """Calls and failures give the error rate; metrics and errors are signals and no calls."""
    log = Log()
    for failed in (True, False, False, None):
        log.append(e.Signal(component="tool:x", kind="call", name="latency_ms", value=10.0, failed=failed))
    log.append(e.Signal(component="tool:x", kind="error", name="Oops", error_type="Oops", severity="error"))
    log.append(e.Signal(component="tool:x", kind="metric", name="load", value=0.5))
    feed(store, log.entries, log.ends)
    row = only(store, "components")
    assert (row.signals, row.calls, row.failures, row.errors) == (6, 3, 1, 1)
    assert (row.first_seen, row.last_seen) == (BEGIN, BEGIN + 5)
    assert (row.last_error_type, row.last_error_time) == ("Oops", BEGIN + 4)


def test_a_late_signal_is_not_the_last(store: Store) -> None:
    """The last signal is the one of the latest event time, not the one that came last."""
    log = Log()
    log.append(e.Signal(component="c", kind="metric", name="load", value=1.0), at=BEGIN + 10)
    log.append(e.Signal(component="c", kind="metric", name="load", value=2.0), at=BEGIN)
    feed(store, log.entries, log.ends)
    row = only(store, "components", "signals")
    assert (row.value, row.count, row.min_value, row.max_value) == (1.0, 2, 1.0, 2.0)


def test_an_agent_is_what_it_said_last(store: Store) -> None:
    """Announcements and heartbeats are taken by event time, also when they come late."""
    log = Log()
    log.append(e.AgentHeartbeat(agent_id="a", load=0.9, version="2"), at=BEGIN + 20)
    log.append(e.AgentAnnounced(agent_id="a", role="coder", version="1", models=["m"]), at=BEGIN)
    log.append(e.AgentHeartbeat(agent_id="a", load=0.1, version="1"), at=BEGIN + 10)
    log.append(
        e.Signal(component="tool:x", kind="call", name="latency_ms", failed=True, agent_id="a", cost_usd=0.1)
    )
    feed(store, log.entries, log.ends)
    row = only(store, "agents")
    assert (row.role, row.version, row.load, json.loads(row.models)) == ("coder", "2", 0.9, ["m"])
    assert (row.calls, row.failures, row.cost_nanousd) == (1, 1, 100_000_000)
    assert (row.first_seen, row.last_seen, row.heartbeat_at) == (BEGIN, BEGIN + 20, BEGIN + 20)


def test_a_run_counts_its_steps(store: Store) -> None:
    """A run's row says what came of it and what it took; a requested call is a step, an ended one a call."""
    log = Log()
    tool: dict[str, Any] = {"agent_id": "a", "tool_name": "t", "call_id": "1"}
    llm: dict[str, Any] = {"agent_id": "a", "call_id": "1", "provider_name": "p", "request_model": "m"}
    for event in (
        e.RunStarted(run_id="r", agent_id="a", task="fly"),
        e.MessagePosted(agent_id="b", role="user", content="x"),
        e.ToolCallRequested(**tool),
        e.ToolCallCompleted(**tool),
        e.ToolCallFailed(**tool, error_type="E"),
        e.LlmCallRequested(**llm),
        e.LlmCallCompleted(**llm, input_tokens=5, output_tokens=2, cost_usd=0.25),
        e.LlmCallFailed(**llm, error_type="E"),
        e.ErrorReported(component="tool:t", error_type="E"),
        e.MetricReported(component="tool:t", name="load", value=1.0),
        e.RunFinished(run_id="r", agent_id="a", outcome="failure", score=0.0, reason="lost"),
    ):
        log.append(event, correlation_id="r")
    log.append(
        e.AnomalyDetected(
            component="tool:t", metric="m", value=1, expected=0, score=1, threshold=0.5,
            severity="warning", detector="d",
        ),
        correlation_id="r",
    )  # fmt: skip
    log.append(e.MessagePosted(agent_id="b", role="user", content="of no run"))
    feed(store, log.entries, log.ends)
    row = only(store, "runs")
    assert (row.run_id, row.agent_id, row.task, row.outcome, row.score) == ("r", "a", "fly", "failure", 0.0)
    assert (row.steps, row.messages, row.errors, row.anomalies) == (8, 1, 1, 1)
    assert (row.tool_calls, row.tool_failures, row.llm_calls, row.llm_failures) == (2, 1, 2, 1)
    assert (row.input_tokens, row.output_tokens, row.cost_nanousd) == (5, 2, 250_000_000)
    assert (row.started_at, row.finished_at) == (BEGIN, BEGIN + 10)


def test_a_run_without_correlation_id_is_its_own(store: Store) -> None:
    """A producer that leaves the correlation id out still has its run, under the run's id."""
    log = Log()
    log.append(e.RunStarted(run_id="r7", agent_id="a"))
    feed(store, log.entries, log.ends)
    assert only(store, "runs").run_id == "r7"


def test_a_dead_letter_keeps_the_record(store: Store) -> None:
    """Key, value and headers of the failed record come back byte for byte."""
    log = Log()
    log.append(
        e.DeadLetter(
            topic="agent.errors", partition=1, offset=7, error_type="DecodeError", error_message="no",
            key=b"\xff\x00", value=b"\x00\xfe", headers={"h": b"\x80"},
        )
    )  # fmt: skip
    feed(store, log.entries, log.ends)
    row = only(store, "dead_letters")
    assert (row.of_topic, row.of_partition, row.of_offset, row.fold) == ("agent.errors", 1, 7, None)
    assert base64.b64decode(row.key) == b"\xff\x00"
    assert base64.b64decode(row.value) == b"\x00\xfe"
    assert {k: base64.b64decode(v) for k, v in json.loads(row.headers).items()} == {"h": b"\x80"}
    assert json.loads(only(store, "events").data)["value"] == "AP4="


def test_the_index_holds_every_event_but_keyed_ones(store: Store) -> None:
    """All raw and derived events have their row; signals repeat what raw events say, and have none."""
    log = Log()
    log.append(e.Signal(component="c", kind="metric", name="x", value=1.0))
    log.append(
        e.MessagePosted(agent_id="sofia", role="user", content="\x00 ünï"), correlation_id="r", subject="s"
    )
    feed(store, log.entries, log.ends)
    row = only(store, "events")
    assert (row.type, row.key, row.correlation_id, row.subject) == ("MessagePosted", "sofia", "r", "s")
    assert json.loads(row.data)["content"] == "\x00 ünï"


def test_an_effect_is_what_was_said_last_of_its_last_attempt(store: Store) -> None:
    """Attempts go before kinds, and an outcome before an intent, in whatever order they are read."""
    log = Log()
    about: dict[str, Any] = {"reactor": "r", "effect_id": "e", "target": "t"}
    log.append(
        e.EffectCompleted(**about, attempt=2, outcome="succeeded", detail="HTTP 200"), causation_id="f"
    )
    log.append(e.EffectDeferred(**about, attempt=1, until=9.0, error_type="NotActed"), causation_id="f")
    log.append(e.EffectIntended(**about, attempt=2, idempotent=True), causation_id="f")
    feed(store, log.entries, log.ends)
    row = only(store, "effects")
    assert (row.status, row.attempt, row.detail, row.error_type) == ("succeeded", 2, "HTTP 200", None)
    assert (row.first_seen, row.last_seen, row.causation_id) == (BEGIN, BEGIN + 2, "f")


def test_a_webhook_is_as_it_was_registered_last(store: Store) -> None:
    """A removal leaves nothing of it to be shown; a later registration brings it back, with its first time."""
    log = Log()
    log.append(e.WebhookRegistered(webhook_id="gone", url="https://a.test/"))
    log.append(e.WebhookRemoved(webhook_id="gone"))
    for event in (
        e.WebhookRegistered(webhook_id="w", url="https://a.test/"),
        e.WebhookRemoved(webhook_id="w"),
        e.WebhookRegistered(webhook_id="w", url="https://b.test/", components=["tool:"]),
    ):
        log.append(event)
    feed(store, log.entries, log.ends)
    with store.read("effects") as reading:
        gone, w = reading.connection.execute(reading.tables["effects"]["webhooks"].select()).all()
    assert (gone.removed, gone.url) == (True, None)
    assert (w.removed, w.url, json.loads(w.components), w.first_seen) == (
        False,
        "https://b.test/",
        ["tool:"],
        BEGIN + 2,
    )
