"""Who&When logs: each file is one failed run of a team, `who-and-when-<number>`.

Every step is one main event of the role up to any bracket:
`human` a user's message to the Orchestrator; `Orchestrator (thought)` an LLM call and its text as a
message, and where the text is a ledger (JSON: request satisfied, in loop, progress) each of its answers a
MetricReported 0 or 1; `Orchestrator (-> X)` a message to X; `ComputerTerminal` the result of a tool
call, failed where it had an exit code other than 0 or no code to run; every other role a message to the
Orchestrator. Texts (not the human's) that hold a traceback, a line that starts with an error or a
`...Warning:` add one ErrorReported of the agent.
The labels `mistake_agent`, `mistake_step`, `mistake_reason` and `ground_truth` are never read. Times are
made up, see `timeline`: run N starts N x 150 s after 2024-10-01T09:00:00Z.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
from pydantic import ValidationError

from schemas import events as e
from schemas.codec import explain
from schemas.envelope import parse_time
from streams.replay.record import Item, NothingToReplay, Options, Recorded, find_files
from streams.replay.rows import BadValue, attempt
from streams.replay.timeline import Session, interleave, starts, tokens

PATTERNS = ("*.json",)
START: Final = parse_time("2024-10-01T09:00:00Z")
GAP_S: Final = 150.0
MODEL: Final = "gpt-4o"
LEAD: Final = "Orchestrator"
LEDGER: Final = ("is_request_satisfied", "is_in_loop", "is_progress_being_made")
HAND_OVER_S: Final = 0.05
_ENTRY = re.compile(r"[\s,]*(?=[^\s,\]])")
_ROLE = re.compile(r"([^(]+?)\s*(?:\((?:-> *(?P<to>[^)]+)|(?P<kind>[^)]*))\))?")
_EXIT_CODE = re.compile(r"exit code\D{0,20}(\d+)")
_RAISED = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit))\b:? ?([^\n]*)", re.MULTILINE)
_ERROR_LINE = re.compile(r"^Error\b[:.]? ?([^\n]*)", re.MULTILINE)
_WARNING = re.compile(r"\b([A-Za-z]\w*Warning): ([^\n]*)")


class _Step(msgspec.Struct):
    role: str
    content: str


class _Run(msgspec.Struct):
    question: str
    history: list[_Step]
    is_corrected: bool = False


_DECODER = msgspec.json.Decoder(_Run)


def read(path: Path, options: Options) -> Iterator[Item]:
    """All runs below `path`, overlapping, in time order. Raises NothingToReplay."""
    start = starts("who-and-when", START, GAP_S, options.seed)
    announced: set[str] = set()

    def run(file: Path, at: float) -> Iterator[Item]:
        try:
            text = file.read_bytes()
        except OSError as error:
            raise NothingToReplay(
                f"{file} cannot be read: {error.strerror}", hint="give files that you may read"
            ) from error
        for item in attempt(file, 1, at, _Reading(file, at, options, announced), text):
            yield item if isinstance(item, Recorded) else item._replace(line=_line_of(text, item.reason))

    files = sorted(find_files(path, PATTERNS), key=_number)
    return interleave((start(_number(f)[0]), run(f, start(_number(f)[0]))) for f in files)


def _number(file: Path) -> tuple[int, str]:
    """The run's number is the file's name; with another name it counts as 0."""
    return (int(file.stem) if re.fullmatch(r"[0-9]{1,6}", file.stem) else 0, file.name)


class _Reading:
    """Turns one file into the events of its run."""

    def __init__(self, file: Path, start: float, options: Options, announced: set[str]) -> None:
        self._file, self._start, self._options, self._announced = file, start, options, announced

    def __call__(self, _line: int, content: bytes) -> Iterable[Recorded]:
        run = _DECODER.decode(content)
        run_id = f"who-and-when-{self._file.stem}"
        session = Session(
            run_id, self._start, self._options.seed, self._file, f"who-and-when:{self._file.stem}"
        )
        lines = step_lines(content)
        session.add(e.RunStarted(run_id=run_id, agent_id=LEAD, task=run.question), 1)
        play, known = _Play(session), set(self._announced)
        for position, (step, line) in enumerate(zip(run.history, lines, strict=True)):
            try:
                play.step(position, step, line, known)
            except (ValidationError, BadValue) as error:
                said = f"{error.title}: {explain(error)}" if isinstance(error, ValidationError) else error
                raise BadValue(f"{said} - at `$.history[{position}]`") from error
        outcome: Literal["success", "failure"] = "success" if run.is_corrected else "failure"
        session.add(e.RunFinished(run_id=run_id, agent_id=LEAD, outcome=outcome), lines[-1] if lines else 1)
        self._announced |= known
        return session.items


class _Play:
    """Plays a run's steps, each at its time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._read = 0
        """Tokens of the log so far."""

    def step(self, position: int, step: _Step, line: int, known: set[str]) -> None:
        agent, recipient, kind = roles(step.role)
        text, session = step.content, self._session
        if agent not in known and agent != "human":
            known.add(agent)
            session.add(e.AgentAnnounced(agent_id=agent, role=agent, version=MODEL, models=[MODEL]), line)
        call_id = f"{session.run_id}-{position}"
        if agent == "human":
            self._say(LEAD, "user", text, None, line)
        elif agent == "ComputerTerminal":
            self._terminal(agent, call_id, text, line)
        elif kind == "thought":
            self._thought(agent, call_id, text, line)
        elif agent == LEAD:
            session.now += HAND_OVER_S
            self._say(agent, "agent", text, recipient, line)
        else:
            session.now += session.tool_s(text)
            self._say(agent, "agent", text, recipient or LEAD, line)
        if agent != "human":
            for error in errors_in(agent, text):
                session.add(error, line)
        self._read += tokens(text)

    def _say(
        self,
        agent: str,
        role: Literal["user", "assistant", "agent"],
        text: str,
        recipient: str | None,
        line: int,
    ) -> None:
        message = e.MessagePosted(
            agent_id=agent,
            role=role,
            content=text,
            recipient_id=recipient,
            conversation_id=self._session.run_id,
        )
        self._session.add(message, line)

    def _thought(self, agent: str, call_id: str, text: str, line: int) -> None:
        seconds = self._session.llm_s(tokens(text))
        self._session.now += seconds
        call = e.LlmCallCompleted(
            agent_id=agent,
            call_id=call_id,
            provider_name="openai",
            request_model=MODEL,
            input_tokens=self._read,
            output_tokens=tokens(text),
            latency_ms=round(seconds * 1000, 3),
            conversation_id=self._session.run_id,
        )
        self._session.add(call, line)
        self._say(agent, "assistant", text, None, line)
        for name, value in ledger(text):
            metric = e.MetricReported(
                component=f"agent:{agent}", name=name, value=float(value), unit="1", agent_id=agent
            )
            self._session.add(metric, line)

    def _terminal(self, agent: str, call_id: str, text: str, line: int) -> None:
        seconds = self._session.tool_s(text)
        self._session.now += seconds
        exit_code = _EXIT_CODE.search(text)
        failed = exit_code is None or int(exit_code[1]) != 0
        common = {
            "agent_id": agent,
            "tool_name": "computer_terminal",
            "call_id": call_id,
            "latency_ms": round(seconds * 1000, 3),
            "conversation_id": self._session.run_id,
        }
        if failed:
            kind = f"exit_code_{exit_code[1]}" if exit_code else "no_code_to_run"
            self._session.add(e.ToolCallFailed(**common, error_type=kind, error_message=text), line)
        else:
            self._session.add(e.ToolCallCompleted(**common, result=text), line)


def roles(role: str) -> tuple[str, str | None, str]:
    """Agent, addressee and kind of `Agent`, `Agent (-> X)` or `Agent (kind)`. Raises BadValue."""
    found = _ROLE.fullmatch(role.strip())
    if found is None:
        raise BadValue(f"role {role!r} is not `Agent`, `Agent (-> Other)` or `Agent (kind)`")
    return found[1], found["to"], found["kind"] or ""


def ledger(text: str) -> list[tuple[str, bool]]:
    """The answers of a ledger by name; none where the text is no ledger that can be read."""
    if not text.startswith("Updated Ledger:"):
        return []
    try:
        said = json.loads(text[text.index("{") :])
    except ValueError:  # the model wrote no JSON, or more than one value: a text like any other
        return []
    answers = ((name, said[name].get("answer")) for name in LEDGER if isinstance(said.get(name), dict))
    return [(name, answer) for name, answer in answers if isinstance(answer, bool)]


def errors_in(agent: str, text: str) -> list[e.ErrorReported]:
    """At most one error and one warning that a step's text holds."""
    found = []
    _, traceback, after = text.partition("Traceback (most recent call last)")
    raised = _RAISED.search(after if traceback else text)
    line = _ERROR_LINE.search(text)
    if raised:
        kind, message = raised[1].rsplit(".", 1)[-1], raised[2]
    elif traceback:
        kind, message = "traceback", after.strip()[:500]
    elif line:
        kind, message = "error", line[1]
    else:
        kind = message = ""
    if kind:
        found.append(
            e.ErrorReported(component=f"agent:{agent}", error_type=kind, message=message, agent_id=agent)
        )
    warning = _WARNING.search(text)
    if warning:
        found.append(
            e.ErrorReported(
                component=f"agent:{agent}",
                error_type=warning[1],
                message=warning[2],
                severity="warning",
                agent_id=agent,
            )
        )
    return found


def step_lines(content: bytes) -> list[int]:
    """The line (from 1) on which each entry of `history` begins; as many as could be read."""
    text = content.decode(errors="replace")
    key = re.search(r'"history"\s*:\s*\[', text)
    lines: list[int] = []
    if key is None:
        return lines
    at, line, decode = key.end(), text.count("\n", 0, key.end()) + 1, json.JSONDecoder().raw_decode
    while entry := _ENTRY.match(text, at):
        line += text.count("\n", at, entry.end())
        lines.append(line)
        try:
            end = decode(text, entry.end())[1]
        except ValueError:  # the broken entry: its line is what was asked for
            break
        line += text.count("\n", entry.end(), end)
        at = end
    return lines


def _line_of(content: bytes, reason: str) -> int:
    """The line of a bad file that a reason points to: by byte, or by the entry of `history`."""
    if byte := re.search(r"\(byte (\d+)\)", reason):
        return content.count(b"\n", 0, int(byte[1])) + 1
    if (entry := re.search(r"\$\.history\[(\d+)\]", reason)) and (lines := step_lines(content)):
        return lines[min(int(entry[1]), len(lines) - 1)]
    return 1
