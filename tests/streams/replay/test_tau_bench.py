from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas import events as e
from streams.replay import Recorded
from streams.replay.tau_bench import START, error_type
from tests.streams.replay.reading import bad_of, good, of_type


def call(tool: str, **arguments: object) -> dict[str, Any]:
    """An assistant message that calls a tool."""
    function = {"name": tool, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "same", "function": function}]}


def answer(tool: str, content: str) -> dict[str, Any]:
    """A tool message."""
    return {"role": "tool", "name": tool, "tool_call_id": "same", "content": content}


def trajectory(task: int = 3, trial: int = 1, **changes: object) -> dict[str, Any]:
    """One session, with some fields changed."""
    return {
        "task_id": task,
        "trial": trial,
        "reward": 1.0,
        "info": {"task": {"instruction": "SECRET", "actions": [{"name": "SECRET"}]}},
        "traj": [
            {"role": "system", "content": "p" * 400},
            {"role": "user", "content": "hello you"},
            call("lookup", user="x"),
            answer("lookup", "found"),
            call("book"),
            answer("book", "Error: not enough seats on flight HAT290, sorry"),
            {"role": "assistant", "content": "That is full."},
            {"role": "user", "content": "###STOP###"},
        ],
    } | changes


def written(tmp_path: Path, *lines: object) -> Path:
    """A file with these lines."""
    file = tmp_path / "sessions.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return file


def test_session(tmp_path: Path) -> None:
    """A session is a run: started, its steps in order under one correlation id, finished by its reward."""
    recorded = good("tau-bench", written(tmp_path, trajectory()))
    assert [type(item.event).__name__ for item in recorded] == [
        "AgentAnnounced",
        "RunStarted",
        "MessagePosted",
        "LlmCallRequested",
        "LlmCallCompleted",
        "ToolCallRequested",
        "ToolCallCompleted",
        "LlmCallRequested",
        "LlmCallCompleted",
        "ToolCallRequested",
        "ToolCallFailed",
        "ErrorReported",
        "LlmCallRequested",
        "LlmCallCompleted",
        "MessagePosted",
        "MessagePosted",
        "RunFinished",
    ]
    assert {item.correlation_id for item in recorded} == {"tau-bench-3-1"}
    assert {(item.line, item.file.name) for item in recorded} == {(1, "sessions.jsonl")}
    assert recorded[0].time >= START
    assert recorded[-1].event == e.RunFinished(
        run_id="tau-bench-3-1",
        agent_id="airline-1",
        outcome="success",
        score=1.0,
        reason="the user ended it",
    )


def test_failed_call(tmp_path: Path) -> None:
    """A result that starts with Error is a failed call and an error of the tool, of the same kind."""
    recorded = good("tau-bench", written(tmp_path, trajectory()))
    [failed], [error] = of_type(recorded, e.ToolCallFailed), of_type(recorded, e.ErrorReported)
    assert failed.error_type == error.error_type == "not_enough_seats_on_flight"
    assert (failed.tool_name, error.component) == ("book", "tool:book")
    assert failed.error_message == "Error: not enough seats on flight HAT290, sorry"
    asked = of_type(recorded, e.ToolCallRequested)
    assert [c.call_id for c in asked] == ["tau-bench-3-1-tool-2", "tau-bench-3-1-tool-4"]
    assert failed.call_id == asked[1].call_id


def test_tokens(tmp_path: Path) -> None:
    """Four characters are a token, rounded up; a call reads all that came before it, the policy too."""
    first = of_type(good("tau-bench", written(tmp_path, trajectory())), e.LlmCallCompleted)[0]
    assert first.input_tokens == 100 + 3
    assert first.output_tokens == len('lookup{"user": "x"}') / 4 + 0.25
    assert first.finish_reason == "tool_calls"
    assert first.cost_usd is None


def test_latencies_are_the_time_between(tmp_path: Path) -> None:
    """A call's latency is the time between its request and its answer."""
    recorded = good("tau-bench", written(tmp_path, trajectory()))
    asked: dict[str, float] = {}
    for item in recorded:
        if isinstance(item.event, e.LlmCallRequested | e.ToolCallRequested):
            asked[item.event.call_id] = item.time
        elif isinstance(item.event, e.LlmCallCompleted | e.ToolCallCompleted | e.ToolCallFailed):
            assert item.event.latency_ms == pytest.approx(
                (item.time - asked.pop(item.event.call_id)) * 1000, abs=0.01
            )
    assert not asked


def test_ground_truth_stays_out(tmp_path: Path) -> None:
    """Nothing of `info` is in any event."""
    assert "SECRET" not in str(good("tau-bench", written(tmp_path, trajectory())))


def test_sessions_overlap_in_time_order(tmp_path: Path) -> None:
    """Sessions start about a minute apart; long ones overlap, and the stream is in time order."""
    talk = [{"role": "user", "content": "x" * 2000}] * 5
    lines = [trajectory(task=task, traj=talk) for task in range(6)]
    recorded = good("tau-bench", written(tmp_path, *lines))
    times = [item.time for item in recorded]
    assert times == sorted(times)
    runs = [item.correlation_id for item in recorded]
    assert runs != sorted(runs, key=str)
    starts = [item.time for item in recorded if isinstance(item.event, e.RunStarted)]
    assert all(n * 60 <= at - START <= n * 60 + 30 for n, at in enumerate(starts))


def test_failure_and_cut_session(tmp_path: Path) -> None:
    """A reward below 1 is a failure with its score; a session may end with a call unanswered."""
    cut = trajectory(reward=0.5, traj=[call("lookup")])
    finished = good("tau-bench", written(tmp_path, cut))[-1].event
    assert isinstance(finished, e.RunFinished)
    assert (finished.outcome, finished.score) == ("failure", 0.5)
    assert finished.reason == "ended without the user's word"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "JSON is malformed"),
        ('{"task_id": 1}', "missing required field `trial`"),
        (trajectory(task=-1), "$.task_id"),
        (trajectory(traj=[{"role": "robot"}]), "Invalid enum value 'robot' - at `$.traj[0].role`"),
        (trajectory(traj=[{"role": "user", "content": 4}]), "Expected `str | null`, got `int`"),
        (trajectory(traj=[answer("x", "y")]), "traj[0]: a tool call and its answer"),
        (trajectory(traj=[call("x"), call("x")]), "traj[1]: a tool call and its answer"),
        (trajectory(traj=[call("")]), "tool_name: String should have at least 1 character"),
        ('"\\ud800"', ""),
    ],
)
def test_malformed(tmp_path: Path, line: object, reason: str) -> None:
    """A line that is no session is bad as a whole, with its number; the sessions around it stay."""
    file = written(tmp_path, trajectory(task=1), line, trajectory(task=2))
    [(number, said)] = bad_of("tau-bench", file)
    assert number == 2
    assert reason in said


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 make a bad record, not a crash."""
    file = tmp_path / "sessions.jsonl"
    file.write_bytes(json.dumps(trajectory()).encode().replace(b"hello", b"h\xffllo"))
    [(number, _)] = bad_of("tau-bench", file)
    assert number == 1


def test_announced_once(tmp_path: Path) -> None:
    """Each agent, one for each trial, is announced at its first session only."""
    lines = [trajectory(task, trial) for task in (1, 2) for trial in (0, 1)]
    recorded: list[Recorded] = good("tau-bench", written(tmp_path, *lines))
    assert [a.agent_id for a in of_type(recorded, e.AgentAnnounced)] == ["airline-0", "airline-1"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Error: flight HAT030 not available on date 2024-05-13", "flight_not_available_on_date"),
        ("Error: payment method certificate_7504069 not found", "payment_method_not_found"),
        ("Error: payment amount does not add up, total price is 3", "payment_amount_does_not_add_up"),
        ("Error", "error"),
        ("Error: 404", "error"),
    ],
)
def test_error_type(message: str, kind: str) -> None:
    """Errors of one kind have one name, whatever flight, card or number they speak of."""
    assert error_type(message) == kind
