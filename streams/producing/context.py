"""Which run, cause and trace an event belongs to, carried through nested calls by a context variable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.codec import explain
from schemas.envelope import random_digits
from schemas.errors import InvalidEvent
from streams.producing.outgoing import Options


@dataclass(frozen=True)
class Context:
    """What events emitted here have in common. `cause_id` is the event that led to them."""

    correlation_id: str | None
    cause_id: str
    trace_id: str
    agent_id: str
    project: str | None = None
    conversation_id: str | None = None


CURRENT: ContextVar[Context | None] = ContextVar("headwater_context", default=None)


def current() -> Context | None:
    """The context of this task or thread; None outside of every run."""
    return CURRENT.get()


def options_here(given: Options, cause: str | None) -> Options:
    """The options of an event emitted here: what was given, else what the context says."""
    options = given.copy()
    context = current()
    if cause is not None:
        options["causation_id"] = cause
    if context is None:
        return options
    if context.correlation_id is not None:
        options.setdefault("correlation_id", context.correlation_id)
    options.setdefault("causation_id", context.cause_id)
    options.setdefault("traceparent", new_span(context.trace_id))
    if context.project is not None:
        options.setdefault("project", context.project)
    return options


def agent_here(agent_id: str | None) -> str:
    """The agent named, else that of the run; raises InvalidEvent where there is neither."""
    found = agent_if_any(agent_id)
    if found is None:
        raise InvalidEvent("no agent_id", hint="give one, or call this inside `run(agent_id)`")
    return found


def agent_if_any(agent_id: str | None) -> str | None:
    """The agent named, else that of the run, else None."""
    context = current()
    return context.agent_id if agent_id is None and context else agent_id


def conversation_here(conversation_id: str | None) -> str | None:
    """The conversation named, else that of the run."""
    context = current()
    return context.conversation_id if conversation_id is None and context else conversation_id


def new_span(trace_id: str) -> str:
    """The traceparent of a new span of this trace (W3C)."""
    return f"00-{trace_id}-{random_digits()[:16]}-01"


@contextmanager
def checked() -> Iterator[None]:
    """What pydantic says of an event that is made inside, as InvalidEvent."""
    try:
        yield
    except ValidationError as error:
        raise InvalidEvent(f"{error.title}: {explain(error)}", hint="see schemas/events.py") from error
