"""The events: frozen facts in the past tense, carrying data only.

Names follow the OpenTelemetry GenAI conventions where one exists. Who, when and why (id, time,
project, correlation) are the envelope's, see `schemas.envelope`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["info", "warning", "error", "critical"]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Latency = Annotated[float, Field(ge=0, allow_inf_nan=False, description="Wall time, milliseconds.")]
Component = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="What has health: `tool:<name>`, `agent:<id>`, `model:<name>`, or a name of the user's own.",
    ),
]
CallId = Annotated[
    Name, Field(description="Joins the events of one call; unique within its run and agent only.")
]
Conversation = Annotated[Name | None, Field(description="Conversation that the event belongs to.")]


class Event(BaseModel):
    """Base of every event. Adding an optional field with a default is compatible; little else is."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class AgentAnnounced(Event):
    """An agent joined the fleet, or said anew what it is."""

    agent_id: Name
    role: Name
    version: Name
    capabilities: list[str] = Field(default=[], description="What it can be asked to do.")
    models: list[str] = Field(default=[], description="Models it calls.")


class AgentHeartbeat(Event):
    """An agent says that it lives, and how busy it is."""

    agent_id: Name
    load: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False, description="Share of its capacity in use; above 1 is overload."),
    ]
    version: Name


class AgentRetired(Event):
    """An agent left the fleet on purpose."""

    agent_id: Name
    reason: str = ""


class MessagePosted(Event):
    """A message to or from an agent."""

    agent_id: Annotated[Name, Field(description="The agent that wrote it, or to whom a user wrote.")]
    role: Annotated[Literal["system", "user", "assistant", "agent"], Field(description="Who speaks.")]
    content: str
    recipient_id: Annotated[Name | None, Field(description="The agent addressed, if one is.")] = None
    conversation_id: Conversation = None


class TaskRequested(Event):
    """Somebody wants an agent to do something."""

    task_id: Name
    agent_id: Annotated[Name, Field(description="Who is to do it.")]
    task: Annotated[str, Field(description="What is to be done, in words.")]
    data: Annotated[str, Field(description="JSON: whatever goes with it.")] = "{}"
    sender_id: Annotated[Name | None, Field(description="The agent that asks, if one does.")] = None
    conversation_id: Conversation = None


class TaskAssigned(Event):
    """A task, or a message to an agent, is on its way to the agent's inbox."""

    task_id: Name
    agent_id: Name
    kind: Annotated[Literal["task", "message"], Field(description="What it was made from.")]
    content: str
    data: Annotated[str, Field(description="JSON: whatever goes with it.")] = "{}"
    sender_id: Name | None = None
    conversation_id: Conversation = None


class ToolCallRequested(Event):
    """An agent asked for a tool to be called."""

    agent_id: Name
    tool_name: Name
    call_id: CallId
    arguments: Annotated[str, Field(description="JSON object, as the agent wrote it.")] = "{}"
    conversation_id: Conversation = None


class ToolCallCompleted(Event):
    """A tool call returned a result."""

    agent_id: Name
    tool_name: Name
    call_id: CallId
    result: str = ""
    latency_ms: Latency | None = None
    conversation_id: Conversation = None


class ToolCallFailed(Event):
    """A tool call returned an error, or nothing in time."""

    agent_id: Name
    tool_name: Name
    call_id: CallId
    error_type: Name
    error_message: str = ""
    latency_ms: Latency | None = None
    conversation_id: Conversation = None


class LlmCallRequested(Event):
    """An agent asked a model for a completion."""

    agent_id: Name
    call_id: CallId
    provider_name: Name
    request_model: Name
    conversation_id: Conversation = None


class LlmCallCompleted(Event):
    """A model answered."""

    agent_id: Name
    call_id: CallId
    provider_name: Name
    request_model: Name
    response_model: Annotated[Name | None, Field(description="Model that answered, where it is known.")] = (
        None
    )
    input_tokens: Count = 0
    output_tokens: Count = 0
    cached_tokens: Annotated[Count, Field(description="Input tokens read from the provider's cache.")] = 0
    reasoning_tokens: Annotated[Count, Field(description="Output tokens spent on reasoning.")] = 0
    cost_usd: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="US dollars; null where unknown, never zero for it."),
    ] = None
    latency_ms: Latency | None = None
    finish_reason: Name | None = None
    conversation_id: Conversation = None


class LlmCallFailed(Event):
    """A model call ended in an error."""

    agent_id: Name
    call_id: CallId
    provider_name: Name
    request_model: Name
    error_type: Name
    error_message: str = ""
    latency_ms: Latency | None = None
    conversation_id: Conversation = None


class ErrorReported(Event):
    """Something went wrong in a component."""

    component: Component
    error_type: Name
    message: str = ""
    severity: Severity = "error"
    agent_id: Name | None = None


class MetricReported(Event):
    """One measurement of a component."""

    component: Component
    name: Name
    value: Finite
    unit: Annotated[str, Field(max_length=64, description="UCUM code or plain word: ms, %, By, 1.")] = ""
    agent_id: Name | None = None


class RunStarted(Event):
    """An agent began a task. The envelope's correlation id is the run's id, here and on each step."""

    run_id: Name
    agent_id: Name
    task: str = ""


class RunFinished(Event):
    """A run ended."""

    run_id: Name
    agent_id: Name
    outcome: Literal["success", "failure", "cancelled", "unknown"]
    score: Annotated[Finite | None, Field(description="The outcome's own measure, such as a reward.")] = None
    reason: str = ""


class Signal(Event):
    """What an event says about one component's health; made by intake, keyed by component."""

    component: Component
    kind: Annotated[
        Literal["call", "metric", "error", "heartbeat", "run"],
        Field(description="What the signal was made from."),
    ]
    name: Annotated[
        Name, Field(description="Metric's name, such as latency_ms or load, or the error's type.")
    ]
    value: Finite | None = None
    unit: str = ""
    failed: Annotated[
        bool | None, Field(description="Whether the call, run or component failed; null: says nothing.")
    ] = None
    error_type: Name | None = None
    severity: Severity | None = None
    agent_id: Name | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None


class AnomalyDetected(Event):
    """A component's metric left what it had been doing."""

    component: Component
    metric: Name
    value: Finite
    expected: Annotated[Finite, Field(description="What the detector expected, in the metric's unit.")]
    score: Annotated[float, Field(ge=0, le=1, description="0 is ordinary, 1 is as odd as can be.")]
    threshold: Annotated[float, Field(ge=0, le=1, description="Score from which a value is an anomaly.")]
    severity: Severity
    detector: Annotated[Name, Field(description="Which part of the detector spoke.")]
    unit: str = ""
    summary: Annotated[str, Field(description="One sentence for a person.")] = ""


class FaultInjected(Event):
    """The simulated fleet broke something on purpose: the ground truth for findings."""

    component: Component
    fault: Literal["slow", "errors", "outage", "overload"]
    factor: Annotated[Finite, Field(description="Latency multiplier, failure probability or load, by fault.")]
    duration_s: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="Length in seconds of event time.")
    ]


class Tick(Event):
    """Time that folds were told of, recorded so that every replay is told the same."""

    topic: Name
    partition: Annotated[int, Field(ge=0)]
    after_offset: Annotated[
        int, Field(ge=0, description="Applied before the record at this offset of the topic's partition.")
    ]
    at: Annotated[Finite, Field(description="Seconds since 1970-01-01 UTC.")]


class FoldCutOver(Event):
    """Which version of a fold is to take what comes: proposed, decided, or given up.

    A proposal makes workers get ready; only what is decided comes into force, in each partition from
    where its worker writes `FoldSwitched`. The first decision of a fold has no `from_version`.
    """

    fold: Name
    cut_over_id: Name
    phase: Literal["proposed", "decided", "cancelled"]
    from_version: Annotated[
        int | None, Field(ge=1, description="In force so far; else the record is void.")
    ] = None
    to_version: Annotated[int, Field(ge=1)]
    state: Annotated[
        Literal["refold", "migrate"],
        Field(
            description="Whether the version folds the whole log anew, or takes over the other one's state."
        ),
    ] = "refold"
    at_once: Annotated[
        bool, Field(description="Switch without getting ready first: each partition stands still meanwhile.")
    ] = False
    by: Name
    reason: str = ""


class FoldReady(Event):
    """The worker of a partition could switch a fold to a version at once; or, with `error`, will not get ready."""

    fold: Name
    cut_over_id: Name
    version: Annotated[int, Field(ge=1)]
    topic: Name
    partition: Annotated[int, Field(ge=0)]
    error: Annotated[str | None, Field(description="Why the worker gave up; null: it is ready.")] = None


class FoldSwitched(Event):
    """From here on another version of a fold takes the records of a partition."""

    fold: Name
    cut_over_id: Name
    from_version: Annotated[int, Field(ge=1)]
    version: Annotated[int, Field(ge=1)]
    topic: Name
    partition: Annotated[int, Field(ge=0)]
    position: Annotated[int, Field(ge=0, description="Offset of the first record that the version takes.")]
    clock: Annotated[
        Finite,
        Field(description="The last tick that the other version was given, seconds since 1970; 0: none."),
    ]
    state: Annotated[
        Literal["refold", "migrate"],
        Field(
            description="The version's state: all records before, folded by it; or the other one's, migrated."
        ),
    ]


class DeadLetter(Event):
    """A record that could not be decoded, that a fold raised on, or of which an effect failed for good.

    Kept whole, with its cause.
    """

    topic: Name
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    fold: Annotated[
        Name | None,
        Field(description="The fold or reactor that could not take it; null: nobody could read it."),
    ] = None
    error_type: Name
    error_message: str = ""
    key: bytes | None = None
    value: bytes | None = None
    headers: dict[str, bytes] = {}


class _Effect(Event):
    """What events about one effect have in common."""

    reactor: Name
    effect_id: Annotated[
        Name, Field(description="The idempotency key: made of the causing event, so it never changes.")
    ]
    target: Annotated[Name, Field(description="What is acted on, such as a webhook's id.")]
    attempt: Annotated[int, Field(ge=0, description="Counts calls; 0: none was made yet.")]


class EffectIntended(_Effect):
    """A reactor is about to act. Without a later event of this attempt, whether it did is unknown."""

    idempotent: Annotated[
        bool, Field(description="Whether the target does the same once when it is asked twice.")
    ]


class EffectDeferred(_Effect):
    """An attempt did not succeed, or could not be made yet; there will be another."""

    until: Annotated[Finite, Field(description="Not before, seconds since 1970-01-01 UTC.")]
    error_type: Name
    error_message: str = ""


class EffectCompleted(_Effect):
    """Nothing more will be tried.

    `unknown`: the call may have acted and must not be repeated; `dropped`: nobody wants it any more.
    """

    outcome: Literal["succeeded", "failed", "unknown", "dropped"]
    detail: Annotated[str, Field(description="What the target said, in short.")] = ""
    error_type: Name | None = None
    error_message: str = ""
    latency_ms: Latency | None = None


class WebhookRegistered(Event):
    """A project wants findings sent to a URL; the newest registration of an id counts."""

    webhook_id: Name
    url: Annotated[str, Field(min_length=1, max_length=2048)]
    types: Annotated[list[str], Field(description="Event types; empty: every finding.")] = []
    severity: Annotated[
        Severity | None, Field(description="The least that is sent, where events have one.")
    ] = None
    components: Annotated[
        list[str], Field(description="Beginnings of components' names; empty: every component.")
    ] = []
    idempotent: Annotated[
        bool, Field(description="Whether a delivery with a known Idempotency-Key does nothing there.")
    ] = True
    secret_version: Annotated[int, Field(ge=1, description="The signing secret is derived from it.")] = 1
    description: str = ""


class WebhookTested(Event):
    """Somebody wants to see that a webhook works: this event is sent to it."""

    test_id: Name
    webhook_id: Name


class WebhookRemoved(Event):
    """A webhook gets nothing any more; what was not yet delivered is dropped."""

    webhook_id: Name
    reason: str = ""


EVENT_TYPES: tuple[type[Event], ...] = tuple(
    t
    for name, t in list(globals().items())
    if isinstance(t, type) and issubclass(t, Event) and t is not Event and not name.startswith("_")
)
NAMESPACE: str = "headwater"
"""Avro namespace of our events; subjects are `headwater.<EventName>` (RecordNameStrategy)."""
