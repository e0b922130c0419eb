"""What is meant for one agent becomes an assignment, and nothing else does."""

from __future__ import annotations

from processors.addressing import Addressing
from schemas import events as e


def given(event: e.Event) -> list[object]:
    """What the fold makes of an event."""
    return list(Addressing().on_event(None, event, 0.0))


def test_a_task_is_assigned_as_it_was_asked_for() -> None:
    """Nothing of the request is lost."""
    asked = e.TaskRequested(
        task_id="1", agent_id="a", task="do", data='{"x": 1}', sender_id="b", conversation_id="c"
    )
    assert given(asked) == [
        e.TaskAssigned(
            task_id="1",
            agent_id="a",
            kind="task",
            content="do",
            data='{"x": 1}',
            sender_id="b",
            conversation_id="c",
        )
    ]


def test_a_message_goes_to_its_recipient() -> None:
    """One without is said to nobody in particular."""
    said = e.MessagePosted(agent_id="b", role="agent", content="hi", recipient_id="a", conversation_id="c")
    assert given(said) == [
        e.TaskAssigned(
            task_id="c", agent_id="a", kind="message", content="hi", sender_id="b", conversation_id="c"
        )
    ]
    assert given(said.model_copy(update={"recipient_id": None})) == []
