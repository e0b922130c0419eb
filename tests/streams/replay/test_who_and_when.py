from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas import events as e
from schemas.events import Event
from streams.replay.who_and_when import errors_in, ledger, roles, step_lines
from tests.streams.replay.reading import bad_of, good, of_type

LEDGER = "Updated Ledger:\n" + json.dumps(
    {
        "is_request_satisfied": {"reason": "no", "answer": False},
        "is_in_loop": {"reason": "yes", "answer": True},
        "is_progress_being_made": {"reason": "?", "answer": "maybe"},
        "next_speaker": {"reason": "x", "answer": "WebSurfer"},
    }
)
STEPS = [
    ("human", "What is it?"),
    ("Orchestrator (thought)", LEDGER),
    ("Orchestrator (-> WebSurfer)", "Look it up"),
    ("WebSurfer", "I clicked.\nTraceback (most recent call last)\n  File\nopenai.BadRequestError: 400 no\n"),
    ("ComputerTerminal", "The script ran, then exited with Unix exit code: 1\nIts output"),
    ("ComputerTerminal", "The script ran, then exited with Unix exit code: 0"),
    ("Orchestrator (termination condition)", "No agent selected."),
]


def written(tmp_path: Path, steps: list[tuple[str, str]] = STEPS, name: str = "7.json") -> Path:
    """A file with a run of these steps."""
    file = tmp_path / name
    run = {
        "history": [{"content": content, "role": role} for role, content in steps],
        "question": "What is it?",
        "ground_truth": "SECRET",
        "is_corrected": False,
        "mistake_agent": "SECRET",
        "mistake_step": "3",
        "mistake_reason": "SECRET",
    }
    file.write_text(json.dumps(run, indent=1), encoding="utf-8")
    return file


def events(tmp_path: Path) -> list[Event]:
    """The events of the run above."""
    return [item.event for item in good("who-and-when", written(tmp_path))]


def test_run(tmp_path: Path) -> None:
    """Each step gives its events in order, of the role up to its bracket, under the run's id."""
    recorded = good("who-and-when", written(tmp_path))
    assert [(type(item.event).__name__, getattr(item.event, "agent_id", None)) for item in recorded] == [
        ("RunStarted", "Orchestrator"),
        ("MessagePosted", "Orchestrator"),
        ("AgentAnnounced", "Orchestrator"),
        ("LlmCallCompleted", "Orchestrator"),
        ("MessagePosted", "Orchestrator"),
        ("MetricReported", "Orchestrator"),
        ("MetricReported", "Orchestrator"),
        ("MessagePosted", "Orchestrator"),
        ("AgentAnnounced", "WebSurfer"),
        ("MessagePosted", "WebSurfer"),
        ("ErrorReported", "WebSurfer"),
        ("AgentAnnounced", "ComputerTerminal"),
        ("ToolCallFailed", "ComputerTerminal"),
        ("ToolCallCompleted", "ComputerTerminal"),
        ("MessagePosted", "Orchestrator"),
        ("RunFinished", "Orchestrator"),
    ]
    assert {item.correlation_id for item in recorded} == {"who-and-when-7"}
    assert "SECRET" not in str(recorded)


def test_lines(tmp_path: Path) -> None:
    """Each event knows the line of its step in the file."""
    file = written(tmp_path)
    text = file.read_text().split("\n")
    for item in good("who-and-when", file):
        if isinstance(item.event, e.MessagePosted):
            assert "{" in text[item.line - 1]
            assert json.dumps(item.event.content) in text[item.line]


def test_hand_over(tmp_path: Path) -> None:
    """`Orchestrator (-> X)` addresses X; others answer the Orchestrator; a human speaks to it."""
    said = [e_ for e_ in events(tmp_path) if isinstance(e_, e.MessagePosted)]
    assert [(m.role, m.recipient_id) for m in said] == [
        ("user", None),
        ("assistant", None),
        ("agent", "WebSurfer"),
        ("agent", "Orchestrator"),
        ("agent", None),
    ]


def test_terminal(tmp_path: Path) -> None:
    """The terminal's result is a tool call, failed by its exit code."""
    [failed] = [x for x in events(tmp_path) if isinstance(x, e.ToolCallFailed)]
    assert (failed.tool_name, failed.error_type) == ("computer_terminal", "exit_code_1")


def test_ledger() -> None:
    """A ledger's yes and no answers are read; other texts, and ledgers that are no JSON, have none."""
    assert ledger(LEDGER) == [("is_request_satisfied", False), ("is_in_loop", True)]
    assert ledger("Updated Ledger:\n{'a': 1}") == []
    assert ledger("Updated Ledger: none") == []
    assert ledger("Next speaker WebSurfer") == []


@pytest.mark.parametrize(
    ("role", "parts"),
    [
        ("human", ("human", None, "")),
        ("Orchestrator (-> WebSurfer)", ("Orchestrator", "WebSurfer", "")),
        ("Orchestrator (termination condition)", ("Orchestrator", None, "termination condition")),
    ],
)
def test_roles(role: str, parts: tuple[str, str | None, str]) -> None:
    """A role names its agent, and in brackets its addressee or kind."""
    assert roles(role) == parts


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("all is well, no error here", []),
        ("Error. Could not transcribe this audio.", [("error", "error")]),
        ("x\nAttributeError: no\n", [("AttributeError", "error")]),
        ("Traceback (most recent call last)\n nothing more", [("traceback", "error")]),
        ("a.py:1: UserWarning: old\n", [("UserWarning", "warning")]),
        ("ValueError: x\nb.py:2: UserWarning: y", [("ValueError", "error"), ("UserWarning", "warning")]),
    ],
)
def test_errors_in(text: str, kinds: list[tuple[str, str]]) -> None:
    """A text gives at most one error and one warning, by what stands at the start of its lines."""
    assert [(x.error_type, x.severity) for x in errors_in("A", text)] == kinds


def test_order_of_runs(tmp_path: Path) -> None:
    """Runs go by number, not by name: 10 comes after 9."""
    for name in ("10.json", "9.json"):
        written(tmp_path, name=name)
    started = of_type(good("who-and-when", tmp_path), e.RunStarted)
    assert [x.run_id for x in started] == ["who-and-when-9", "who-and-when-10"]


def test_step_lines_of_broken_file() -> None:
    """Lines are known up to and including the entry that is broken."""
    assert step_lines(b'{"history": [\n{"a": 1},\n\n{"b": [2,\n3]},\n{oops') == [2, 4, 6]
    assert step_lines(b'{"other": []}') == []
    assert step_lines(b'{"history": []}') == []


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('"Look it up"', "4", 11, "Expected `str`, got `int` - at `$.history[2].content`"),
        ('"Look it up"', '"Look it up', 12, "malformed"),
        ("Orchestrator (-> WebSurfer)", "Orchestrator (-> W" + "x" * 300 + ")", 11, "$.history[2]"),
        ("Orchestrator (-> WebSurfer)", "Orchestrator (", 11, "role 'Orchestrator (' is not"),
        ('"question"', '"query"', 1, "missing required field `question`"),
    ],
)
def test_malformed(tmp_path: Path, old: str, new: str, line: int, reason: str) -> None:
    """A file that is no run is bad as a whole, with the line where it goes wrong; other runs stay."""
    file = written(tmp_path)
    file.write_text(file.read_text().replace(old, new), encoding="utf-8")
    written(tmp_path, name="8.json")
    [(number, said)] = bad_of("who-and-when", tmp_path)
    assert reason in said
    assert number == line
