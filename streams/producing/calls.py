"""The methods that the async and the sync SDK share: they make events, and leave sending to each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar, Unpack

from schemas import events as e
from schemas.envelope import new_id
from streams.producing.context import agent_here, agent_if_any, checked, conversation_here, options_here
from streams.producing.outgoing import Options, Outgoing, address, addressing
from streams.producing.scopes import LlmCall, Run, Scope, ToolCall, as_text

One = TypeVar("One")
Many = TypeVar("Many")
InRun = TypeVar("InRun")
InToolCall = TypeVar("InToolCall")
InLlmCall = TypeVar("InLlmCall")
Role = Literal["system", "user", "assistant", "agent"]


class Calls(Generic[One, Many, InRun, InToolCall, InLlmCall]):
    """Emitting, alone and in scopes.

    `One` and `Many` are what emitting one event and many gives, the others what a scope is entered by.
    Every method raises InvalidEvent where what it is given is no event, and as `Producer.emit`.
    """

    def __init__(self, project: str, source: str) -> None:
        self._project = project
        self._source = source

    def _send(self, item: Outgoing) -> One:
        raise NotImplementedError

    def _send_many(self, items: list[Outgoing]) -> Many:
        raise NotImplementedError

    def _within(self, scope: Scope) -> Any:
        raise NotImplementedError

    def _as_told(self, told: tuple[e.Event, Options]) -> Outgoing:
        """What a scope gives: its options are complete but for the project."""
        event, options = told
        options.setdefault("project", self._project)
        return address(event, self._source, options)

    def outgoing(self, event: e.Event, *, cause: str | None = None, **options: Unpack[Options]) -> Outgoing:
        """An event as it would be emitted here, for `emit_many`; `cause`: id of the event that led to it."""
        return self._as_told((event, options_here(options, cause)))

    def emit(self, event: e.Event, *, cause: str | None = None, **options: Unpack[Options]) -> One:
        """Write an event and wait for the acknowledgement; see `Options` for what may be said of it."""
        return self._send(self.outgoing(event, cause=cause, **options))

    def emit_many(
        self, events: Iterable[e.Event | Outgoing], *, cause: str | None = None, **options: Unpack[Options]
    ) -> Many:
        """Write many events, in batches, and wait for all acknowledgements; the options hold for each."""
        here = options_here(options, cause)
        here.setdefault("project", self._project)
        addressed = addressing(self._source, here, spans="traceparent" not in options)
        return self._send_many([item if isinstance(item, Outgoing) else addressed(item) for item in events])

    def run(
        self,
        agent_id: str,
        *,
        task: str = "",
        run_id: str | None = None,
        project: str | None = None,
        conversation_id: str | None = None,
        traceparent: str | None = None,
    ) -> InRun:
        """One task of an agent: emits RunStarted, and RunFinished at the end.

        Where the body raises, the outcome is failure (cancelled for a cancellation), with the
        exception's type in `reason`. A run inside a run is caused by it and shares its trace.
        `traceparent` continues a trace that came from elsewhere.
        """
        run = Run(
            agent_id,
            task,
            run_id,
            project=project,
            conversation_id=conversation_id,
            traceparent=traceparent,
        )
        entered: InRun = self._within(run)
        return entered

    def tool_call(
        self,
        tool_name: str,
        arguments: Mapping[str, object] | str = "{}",
        *,
        agent_id: str | None = None,
        call_id: str | None = None,
        conversation_id: str | None = None,
    ) -> InToolCall:
        """A tool call: emits ToolCallRequested, then ToolCallCompleted, or ToolCallFailed if it raises."""
        call = ToolCall(tool_name, arguments, agent_id, call_id, conversation_id)
        entered: InToolCall = self._within(call)
        return entered

    def llm_call(
        self,
        provider_name: str,
        request_model: str,
        *,
        agent_id: str | None = None,
        call_id: str | None = None,
        conversation_id: str | None = None,
    ) -> InLlmCall:
        """A model's call: emits LlmCallRequested, then LlmCallCompleted, or LlmCallFailed if it raises."""
        call = LlmCall(provider_name, request_model, agent_id, call_id, conversation_id)
        entered: InLlmCall = self._within(call)
        return entered

    def message(
        self,
        content: str,
        *,
        role: Role = "assistant",
        agent_id: str | None = None,
        recipient_id: str | None = None,
        conversation_id: str | None = None,
        cause: str | None = None,
        **options: Unpack[Options],
    ) -> One:
        """Emit MessagePosted, by default from the run's agent."""
        with checked():
            event = e.MessagePosted(
                agent_id=agent_here(agent_id),
                role=role,
                content=content,
                recipient_id=recipient_id,
                conversation_id=conversation_here(conversation_id),
            )
        return self.emit(event, cause=cause, **options)

    def assign(
        self,
        agent_id: str,
        task: str,
        data: object = None,
        *,
        task_id: str | None = None,
        sender_id: str | None = None,
        conversation_id: str | None = None,
        cause: str | None = None,
        **options: Unpack[Options],
    ) -> One:
        """Emit TaskRequested: `agent_id` is to do `task`; `data` goes with it as JSON."""
        with checked():
            event = e.TaskRequested(
                task_id=task_id or new_id(),
                agent_id=agent_id,
                task=task,
                data="{}" if data is None else as_text(data),
                sender_id=agent_if_any(sender_id),
                conversation_id=conversation_here(conversation_id),
            )
        return self.emit(event, cause=cause, **options)

    def metric(
        self,
        component: str,
        name: str,
        value: float,
        unit: str = "",
        *,
        agent_id: str | None = None,
        cause: str | None = None,
        **options: Unpack[Options],
    ) -> One:
        """Emit MetricReported; `unit` is a UCUM code or a plain word: ms, %, By, 1."""
        with checked():
            event = e.MetricReported(
                component=component, name=name, value=value, unit=unit, agent_id=agent_if_any(agent_id)
            )
        return self.emit(event, cause=cause, **options)

    def error(
        self,
        component: str,
        error: BaseException | str,
        message: str = "",
        *,
        severity: e.Severity = "error",
        agent_id: str | None = None,
        cause: str | None = None,
        **options: Unpack[Options],
    ) -> One:
        """Emit ErrorReported for an exception, or for an error's type and message."""
        if isinstance(error, BaseException):
            error, message = type(error).__name__, message or str(error)
        with checked():
            event = e.ErrorReported(
                component=component,
                error_type=error,
                message=message,
                severity=severity,
                agent_id=agent_if_any(agent_id),
            )
        return self.emit(event, cause=cause, **options)

    def heartbeat(
        self,
        *,
        load: float,
        version: str,
        agent_id: str | None = None,
        cause: str | None = None,
        **options: Unpack[Options],
    ) -> One:
        """Emit AgentHeartbeat; `load` is the share of the agent's capacity in use."""
        with checked():
            event = e.AgentHeartbeat(agent_id=agent_here(agent_id), load=load, version=version)
        return self.emit(event, cause=cause, **options)
