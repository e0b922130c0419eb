"""Stretches of work that begin with one event and end with another: a run, a tool call, a model's call.

They do no I/O: the async and the sync SDK send what `begin` and `end` give.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextvars import Token
from dataclasses import replace
from typing import Any, Literal

from schemas import events as e
from schemas.envelope import new_id
from schemas.errors import InvalidEvent
from streams.producing.context import (
    CURRENT,
    Context,
    agent_here,
    checked,
    conversation_here,
    current,
    new_span,
    options_here,
)
from streams.producing.outgoing import TRACEPARENT, Options

Outcome = Literal["success", "failure", "cancelled", "unknown"]


def as_text(value: object) -> str:
    """Text as it is, everything else as JSON, or as its `str` where JSON has no form for it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):  # keys that are no text, or a value inside itself
        return str(value)


class Scope:
    """A stretch of work. `begin` enters its context; `end` leaves it. Each gives an event and its options."""

    def __init__(self) -> None:
        self._token: Token[Context | None] | None = None
        self._started = 0.0
        self._latency_ms = 0.0

    def begin(self) -> tuple[e.Event, Options]:
        """Enter; what follows is caused by the event given here. Raises InvalidEvent."""
        with checked():
            event, context, options = self._opening()
        options = options_here(options, None)
        options["id"] = context.cause_id
        self._token = CURRENT.set(context)
        self._started = time.perf_counter()
        return event, options

    def end(self, error: BaseException | None) -> tuple[e.Event, Options]:
        """The last event; what was told of it may be no event: raises InvalidEvent."""
        self._latency_ms = (time.perf_counter() - self._started) * 1000
        with checked():
            event = self._closing(error)
        return event, options_here({}, None)

    def leave(self) -> None:
        """Return to the context before."""
        if self._token is not None:
            CURRENT.reset(self._token)
            self._token = None

    def _opening(self) -> tuple[e.Event, Context, Options]:
        raise NotImplementedError

    def _closing(self, error: BaseException | None) -> e.Event:
        raise NotImplementedError


class Run(Scope):
    """One task of one agent. `id` is the correlation id of its events."""

    def __init__(
        self,
        agent_id: str,
        task: str,
        run_id: str | None,
        *,
        project: str | None,
        conversation_id: str | None,
        traceparent: str | None,
    ) -> None:
        super().__init__()
        if traceparent is not None and not TRACEPARENT.fullmatch(traceparent):
            raise InvalidEvent(
                f"traceparent {traceparent!r} is not valid", hint="W3C: 00-<32 hex>-<16 hex>-<2 hex>"
            )
        self.id = run_id or new_id()
        self.agent_id = agent_id
        self._task = task
        self._project = project
        self._conversation_id = conversation_id
        self._traceparent = traceparent
        self._outcome: Outcome = "success"
        self._score: float | None = None
        self._reason = ""

    def finish(self, outcome: Outcome = "success", *, score: float | None = None, reason: str = "") -> None:
        """Say how the run ends, when it does; a raised exception says failure by itself."""
        self._outcome, self._score, self._reason = outcome, score, reason

    def _opening(self) -> tuple[e.Event, Context, Options]:
        outer = current()
        trace_id = os.urandom(16).hex()
        if self._traceparent is not None:
            trace_id = self._traceparent[3:35]
        elif outer is not None:
            trace_id = outer.trace_id
        project = self._project or (outer.project if outer else None)
        context = Context(self.id, new_id(), trace_id, self.agent_id, project, self._conversation_id)
        options = Options(correlation_id=self.id, traceparent=new_span(trace_id))
        if project is not None:
            options["project"] = project
        return e.RunStarted(run_id=self.id, agent_id=self.agent_id, task=self._task), context, options

    def _closing(self, error: BaseException | None) -> e.Event:
        outcome, reason = self._outcome, self._reason
        if isinstance(error, asyncio.CancelledError):
            outcome, reason = "cancelled", "CancelledError"
        elif error is not None:
            outcome, reason = "failure", f"{type(error).__name__}: {error}".removesuffix(": ")
        return e.RunFinished(
            run_id=self.id, agent_id=self.agent_id, outcome=outcome, score=self._score, reason=reason
        )


class _Call(Scope):
    """A call within a run, or on its own; what is emitted inside is caused by its request."""

    def __init__(self, agent_id: str | None, call_id: str | None, conversation_id: str | None) -> None:
        super().__init__()
        self.call_id = call_id or new_id()
        self._fields: dict[str, Any] = {
            "agent_id": agent_here(agent_id),
            "call_id": self.call_id,
            "conversation_id": conversation_here(conversation_id),
        }

    def _request(self) -> e.Event:
        raise NotImplementedError

    def _opening(self) -> tuple[e.Event, Context, Options]:
        outer = current()
        options = Options()
        if outer is None:  # without a run: no correlation, but a cause and a trace of its own
            trace_id = os.urandom(16).hex()
            options["traceparent"] = new_span(trace_id)
            outer = Context(None, "", trace_id, self._fields["agent_id"])
        return self._request(), replace(outer, cause_id=new_id()), options

    def _failure(self, error: BaseException) -> dict[str, Any]:
        said = {
            "error_type": type(error).__name__,
            "error_message": str(error),
            "latency_ms": self._latency_ms,
        }
        return self._fields | said


class ToolCall(_Call):
    """A tool call under way; set `result` before it ends. An exception makes it a failed one."""

    def __init__(
        self,
        tool_name: str,
        arguments: Mapping[str, object] | str,
        agent_id: str | None,
        call_id: str | None,
        conversation_id: str | None,
    ) -> None:
        super().__init__(agent_id, call_id, conversation_id)
        self.result: object = ""
        self._arguments = as_text(arguments)
        self._fields["tool_name"] = tool_name

    def _request(self) -> e.Event:
        return e.ToolCallRequested(**self._fields, arguments=self._arguments)

    def _closing(self, error: BaseException | None) -> e.Event:
        if error is not None:
            return e.ToolCallFailed(**self._failure(error))
        return e.ToolCallCompleted(**self._fields, result=as_text(self.result), latency_ms=self._latency_ms)


class LlmCall(_Call):
    """A call of a model under way; say with `answered` what it took. An exception makes it a failed one."""

    def __init__(
        self,
        provider_name: str,
        request_model: str,
        agent_id: str | None,
        call_id: str | None,
        conversation_id: str | None,
    ) -> None:
        super().__init__(agent_id, call_id, conversation_id)
        self._fields |= {"provider_name": provider_name, "request_model": request_model}
        self._answer: dict[str, Any] = {}

    def answered(
        self,
        *,
        response_model: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
        reasoning_tokens: int = 0,
        cost_usd: float | None = None,
        finish_reason: str | None = None,
    ) -> None:
        """What the model used and why it stopped; `cost_usd` None where it is unknown."""
        self._answer = {
            "response_model": response_model,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cached_tokens": cached_tokens,
            "reasoning_tokens": reasoning_tokens,
            "cost_usd": cost_usd,
            "finish_reason": finish_reason,
        }

    def _request(self) -> e.Event:
        return e.LlmCallRequested(**self._fields)

    def _closing(self, error: BaseException | None) -> e.Event:
        if error is not None:
            return e.LlmCallFailed(**self._failure(error))
        return e.LlmCallCompleted(**self._fields, **self._answer, latency_ms=self._latency_ms)
