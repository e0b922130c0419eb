"""What an agent is given: a task or a message, and the means to act as an agent that is watched."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from typing import Any

from schemas.envelope import Envelope, derived_id
from schemas.errors import InvalidEvent
from schemas.events import TaskAssigned
from streams.producing.scopes import LlmCall, ToolCall
from streams.sdk import Emitted, Headwater


class Task:
    """One assignment, amid its run: what is emitted by way of it belongs to that run."""

    def __init__(
        self, event: TaskAssigned, envelope: Envelope, hw: Headwater, name: tuple[str, ...], attempt: int
    ) -> None:
        self.event = event
        self.envelope = envelope
        self.hw = hw
        """The SDK, for everything that is not here."""
        self.attempt = attempt
        """1 for the first call of the handler; after a crash it may be 1 again."""
        self._name = name
        self._said = 0

    @property
    def id(self) -> str:
        """The task's id, as who requested it gave it."""
        return self.event.task_id

    @property
    def agent_id(self) -> str:
        """Whose task it is."""
        return self.event.agent_id

    @property
    def kind(self) -> str:
        """`task`, or `message` from another agent or a user."""
        return self.event.kind

    @property
    def content(self) -> str:
        """The task in words, or the message."""
        return self.event.content

    @property
    def data(self) -> Any:
        """What goes with it. Raises InvalidEvent where that is no JSON."""
        try:
            return json.loads(self.event.data)
        except ValueError as error:
            raise InvalidEvent(
                f"task {self.id}: its data is no JSON: {error}", hint="mend who sent it"
            ) from error

    @property
    def sender_id(self) -> str | None:
        """The agent that asks, if one does."""
        return self.event.sender_id

    @property
    def conversation_id(self) -> str | None:
        """The conversation that it is part of."""
        return self.event.conversation_id

    async def say(self, content: str, to: str | None = None) -> Emitted:
        """Post a message; `to` is the agent that gets it into its inbox.

        Its id is made of the task and of how many came before: said again by a second handling of the
        same task, it is the same message.
        """
        self._said += 1
        id_ = derived_id(*self._name, "said", self._said)
        return await self.hw.message(
            content, role="agent" if to is not None else "assistant", recipient_id=to, id=id_
        )

    def tool_call(self, name: str, arguments: Any = "{}") -> AbstractAsyncContextManager[ToolCall]:
        """A tool call, to be entered: see `Headwater.tool_call`."""
        return self.hw.tool_call(name, arguments)

    def llm_call(self, provider: str, model: str) -> AbstractAsyncContextManager[LlmCall]:
        """A model's call, to be entered: see `Headwater.llm_call`."""
        return self.hw.llm_call(provider, model)
