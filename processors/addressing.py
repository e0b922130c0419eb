"""Addressing: what is meant for one agent, tasks and messages, as assignments keyed by agent; keeps no state."""

from __future__ import annotations

from collections.abc import Iterable

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics


class Addressing(Fold[None]):
    """One assignment for each task, and for each message that names a recipient."""

    name = "addressing"
    topics = (topics.TASKS, topics.MESSAGES)
    accepts = (e.TaskRequested, e.MessagePosted)
    emits = (e.TaskAssigned,)

    def on_event(self, state: None, event: e.Event, at: float) -> Iterable[Output]:
        """The event's assignment, if it is for an agent."""
        if isinstance(event, e.TaskRequested):
            yield e.TaskAssigned(
                task_id=event.task_id,
                agent_id=event.agent_id,
                kind="task",
                content=event.task,
                data=event.data,
                sender_id=event.sender_id,
                conversation_id=event.conversation_id,
            )
        elif isinstance(event, e.MessagePosted) and event.recipient_id is not None:
            yield e.TaskAssigned(
                # A message has no id of its own; its conversation, or its writer, names the exchange.
                task_id=event.conversation_id or event.agent_id,
                agent_id=event.recipient_id,
                kind="message",
                content=event.content,
                sender_id=event.agent_id,
                conversation_id=event.conversation_id,
            )
