"""Our topics, declared once: what is in each, what keys it, how it is kept. Packages add theirs (`schemas.catalog`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from schemas import events as e
from schemas.errors import InvalidEvent

Kind = Literal["raw", "keyed", "derived", "control", "inbox"]


@dataclass(frozen=True)
class Topic:
    """An ordered log of events.

    `events` maps each event type that belongs here to the field that keys it. Raw topics may be
    written by any client with any partitioner; keyed and derived ones are written by folds and
    reactors alone, control ones by the door or command that each belongs to. Inboxes hold copies,
    written without transactions, for hosts that cannot read what is written by these.
    `config` holds Kafka topic settings beyond the common ones (see `streams.admin`).
    """

    name: str
    kind: Kind
    events: dict[type[e.Event], str]
    about: str
    config: dict[str, str] = field(default_factory=dict)


LIFECYCLE = Topic(
    "agent.lifecycle",
    "raw",
    {e.AgentAnnounced: "agent_id", e.AgentHeartbeat: "agent_id", e.AgentRetired: "agent_id"},
    "agents come, live and go",
)
MESSAGES = Topic("agent.messages", "raw", {e.MessagePosted: "agent_id"}, "what is said")
ERRORS = Topic("agent.errors", "raw", {e.ErrorReported: "component"}, "what went wrong")
METRICS = Topic("agent.metrics", "raw", {e.MetricReported: "component"}, "what was measured")
# Calls are keyed by what is called: intake then sees a component's calls in the order in which they
# were made. Keyed by agent, calls of one tool would come from many partitions, in any order.
TOOL_CALLS = Topic(
    "agent.tool-calls",
    "raw",
    {e.ToolCallRequested: "tool_name", e.ToolCallCompleted: "tool_name", e.ToolCallFailed: "tool_name"},
    "tools called, and what came of it",
)
LLM_CALLS = Topic(
    "agent.llm-calls",
    "raw",
    {
        e.LlmCallRequested: "request_model",
        e.LlmCallCompleted: "request_model",
        e.LlmCallFailed: "request_model",
    },
    "models called, and what came of it",
)
RUNS = Topic(
    "agent.runs", "raw", {e.RunStarted: "agent_id", e.RunFinished: "agent_id"}, "tasks begun and ended"
)
TASKS = Topic("agent.tasks", "raw", {e.TaskRequested: "agent_id"}, "what agents are asked to do")
FAULTS = Topic(
    "simulation.faults", "raw", {e.FaultInjected: "component"}, "what the simulated fleet broke on purpose"
)
SIGNALS = Topic("signals", "keyed", {e.Signal: "component"}, "what events say about components")
ASSIGNMENTS = Topic("assignments", "derived", {e.TaskAssigned: "agent_id"}, "what is addressed to an agent")
INBOX = Topic(
    "fleet.inbox",
    "inbox",
    {},
    "copies of assignments, for agents that are hosted here",
    {"retention.ms": str(7 * 24 * 3600 * 1000)},
)
ANOMALIES = Topic("anomalies", "derived", {e.AnomalyDetected: "component"}, "what left its usual course")
DEAD_LETTERS = Topic(
    "headwater.dead-letters", "derived", {e.DeadLetter: "topic"}, "records that nobody could take"
)
EFFECTS = Topic(
    "effects",
    "derived",
    {e.EffectIntended: "target", e.EffectDeferred: "target", e.EffectCompleted: "target"},
    "what reactors did in the outside world",
)
WEBHOOKS = Topic(
    "headwater.webhooks",
    "control",
    {e.WebhookRegistered: "webhook_id", e.WebhookRemoved: "webhook_id", e.WebhookTested: "test_id"},
    "where findings are sent",
)
FOLDS = Topic(
    "headwater.folds",
    "control",
    {e.FoldCutOver: "fold"},
    "which version of each fold is in force",
    {"cleanup.policy": "delete"},  # its history is what counts, not the newest of a key
)

SCHEMA_IDS = "headwater.schema-ids"
"""Name of the compacted topic in which a cluster remembers the schema ids that its records carry."""

TOPICS: tuple[Topic, ...] = (
    LIFECYCLE, MESSAGES, ERRORS, METRICS, TOOL_CALLS, LLM_CALLS, RUNS, TASKS, FAULTS,
    SIGNALS, ASSIGNMENTS, ANOMALIES, DEAD_LETTERS, EFFECTS, WEBHOOKS, FOLDS, INBOX,
)  # fmt: skip
RAW: tuple[Topic, ...] = tuple(t for t in TOPICS if t.kind == "raw")
UNDECLARED = (
    "list its topic under the entry point group headwater.events of your package, and install that: "
    "`pip install -e .`"
)
"""What to do about an event type that is in no topic."""
_TOPIC_OF: dict[type[e.Event], Topic] = {event: topic for topic in TOPICS for event in topic.events}


def changelog(topic: str) -> str:
    """Name of the compacted topic that keeps snapshots of the folds that read `topic`."""
    return f"{topic}.changelog"


def ticks(topic: str) -> str:
    """Name of the topic that records the ticks given to the folds that read `topic`."""
    return f"{topic}.ticks"


def versions(topic: str) -> str:
    """Name of the topic that records from where which version of a fold took the records of `topic`."""
    return f"{topic}.versions"


def ledger(reactor: str) -> str:
    """Name of the compacted topic that keeps what a reactor intends and has done."""
    return f"reactors.{reactor}.ledger"


@cache
def topic_of(event_type: type[e.Event]) -> Topic:
    """The topic that an event type belongs to; raises InvalidEvent where none is declared."""
    topic = _TOPIC_OF.get(event_type) or _of_packages().get(event_type)
    if topic is None:
        raise InvalidEvent(f"{event_type.__name__} belongs to no topic", hint=UNDECLARED)
    return topic


def key_of(event: e.Event) -> str:
    """The event's own key: the value of the field that keys it in its topic."""
    return str(getattr(event, topic_of(type(event)).events[type(event)]))


@cache
def _of_packages() -> dict[type[e.Event], Topic]:
    from schemas import catalog  # noqa: PLC0415 - it is made of what stands here

    return {
        event: topic for added in catalog.survey().found for topic in added.value for event in topic.events
    }
