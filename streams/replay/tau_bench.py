"""tau-bench trajectories: each is one run of one agent, `tau-bench-<task>-<trial>`.

The agent is `airline-<trial>` (four trials of a task are four answers to one question), announced at
its first session. `user` messages and `assistant` texts are messages, each `assistant` message an LLM
call (gpt-4o; input tokens estimated from all that came before, the policy included, output tokens from
text and tool call), each entry of `tool_calls` a tool call, answered by the `tool` message after it: a
text that starts with `Error` is a ToolCallFailed and an ErrorReported of the tool. Call ids are made of
task, trial and position, the recorded ones are not unique. The run ends with its reward as score;
nothing else of `info` is read. Times are made up, see `timeline`: sessions start about 60 s apart from
2024-05-15T20:00:00Z on, which is the moment that the policy names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from schemas import events as e
from schemas.envelope import parse_time
from streams.replay.record import Item, Options, Recorded, find_files
from streams.replay.rows import BadValue, attempt, numbered
from streams.replay.timeline import Session, interleave, starts, tokens

PATTERNS = ("*.jsonl",)
START: Final = parse_time("2024-05-15T20:00:00Z")
GAP_S: Final = 60.0
MODEL: Final = "gpt-4o"
_STOP = "###STOP###"


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    name: str | None = None


class _Trajectory(msgspec.Struct):
    task_id: Annotated[int, msgspec.Meta(ge=0)]
    trial: Annotated[int, msgspec.Meta(ge=0)]
    reward: float
    traj: list[_Message]


_DECODER = msgspec.json.Decoder(_Trajectory)


def read(path: Path, options: Options) -> Iterator[Item]:
    """All sessions below `path`, overlapping, in time order. Raises NothingToReplay."""
    start = starts("tau-bench", START, GAP_S, options.seed)
    announced: set[str] = set()

    def sessions() -> Iterator[tuple[float, Iterator[Item]]]:
        n = 0
        for file in find_files(path, PATTERNS):
            for line, text in numbered(file):
                at = start(n)
                yield at, iter(attempt(file, line, at, _Reading(file, at, options, announced), text))
                n += 1

    return interleave(sessions())


class _Reading:
    """Turns one line into the events of its session."""

    def __init__(self, file: Path, start: float, options: Options, announced: set[str]) -> None:
        self._file, self._start, self._options, self._announced = file, start, options, announced

    def __call__(self, line: int, text: bytes) -> Iterable[Recorded]:
        t = _DECODER.decode(text)
        run_id, agent = f"tau-bench-{t.task_id}-{t.trial}", f"airline-{t.trial}"
        session = Session(
            run_id, self._start, self._options.seed, self._file, f"tau-bench:{self._file.stem}:{line}"
        )
        if agent not in self._announced:
            announcement = e.AgentAnnounced(
                agent_id=agent, role="airline support", version=MODEL, models=[MODEL]
            )
            session.add(announcement, line)
        session.add(e.RunStarted(run_id=run_id, agent_id=agent, task=f"airline task {t.task_id}"), line)
        _Play(session, agent, line).play(t.traj)
        last = t.traj[-1].content if t.traj else None
        finished = e.RunFinished(
            run_id=run_id,
            agent_id=agent,
            outcome="success" if t.reward == 1.0 else "failure",
            score=t.reward,
            reason="the user ended it" if last and _STOP in last else "ended without the user's word",
        )
        session.add(finished, line)
        self._announced.add(agent)
        return session.items


class _Play:
    """Plays a session's messages, each at its time."""

    def __init__(self, session: Session, agent: str, line: int) -> None:
        self._session, self._agent, self._line = session, agent, line
        self._read = 0
        """Tokens of the conversation so far."""
        self._open: tuple[str, str] | None = None
        """Id and tool of the call that waits for its answer."""

    def play(self, messages: list[_Message]) -> None:
        for position, message in enumerate(messages):
            if (message.role == "tool") != (self._open is not None):
                raise BadValue(f"traj[{position}]: a tool call and its answer do not follow each other")
            match message.role:
                case "system":
                    self._read += tokens(message.content or "")
                case "user":
                    self._user(message.content or "")
                case "assistant":
                    self._assistant(position, message)
                case "tool":
                    self._answer(message.content or "")

    def _add(self, event: e.Event) -> None:
        self._session.add(event, self._line)

    def _say(self, role: Literal["user", "assistant"], content: str) -> None:
        run = self._session.run_id
        self._add(e.MessagePosted(agent_id=self._agent, role=role, content=content, conversation_id=run))

    def _user(self, content: str) -> None:
        self._session.now += self._session.user_s(content)
        self._say("user", content)
        self._read += tokens(content)

    def _assistant(self, position: int, message: _Message) -> None:
        calls, run = message.tool_calls or [], self._session.run_id
        if len(calls) > 1:
            raise BadValue(f"traj[{position}]: {len(calls)} tool calls in one message, at most one is known")
        written = tokens(
            (message.content or "") + "".join(c.function.name + c.function.arguments for c in calls)
        )
        call_id = f"{run}-llm-{position}"
        self._add(
            e.LlmCallRequested(
                agent_id=self._agent,
                call_id=call_id,
                provider_name="openai",
                request_model=MODEL,
                conversation_id=run,
            )
        )
        seconds = self._session.llm_s(written)
        self._session.now += seconds
        self._add(
            e.LlmCallCompleted(
                agent_id=self._agent,
                call_id=call_id,
                provider_name="openai",
                request_model=MODEL,
                input_tokens=self._read,
                output_tokens=written,
                latency_ms=round(seconds * 1000, 3),
                finish_reason="tool_calls" if calls else "stop",
                conversation_id=run,
            )
        )
        self._read += written
        if message.content:
            self._say("assistant", message.content)
        for call in calls:
            self._open = (f"{run}-tool-{position}", call.function.name)
            self._add(
                e.ToolCallRequested(
                    agent_id=self._agent,
                    tool_name=call.function.name,
                    call_id=self._open[0],
                    arguments=call.function.arguments,
                    conversation_id=run,
                )
            )

    def _answer(self, content: str) -> None:
        assert self._open is not None
        (call_id, tool), self._open = self._open, None
        seconds = self._session.tool_s(content)
        self._session.now += seconds
        latency_ms, run = round(seconds * 1000, 3), self._session.run_id
        self._read += tokens(content)
        if not content.startswith("Error"):
            self._add(
                e.ToolCallCompleted(
                    agent_id=self._agent,
                    tool_name=tool,
                    call_id=call_id,
                    result=content,
                    latency_ms=latency_ms,
                    conversation_id=run,
                )
            )
            return
        kind = error_type(content)
        self._add(
            e.ToolCallFailed(
                agent_id=self._agent,
                tool_name=tool,
                call_id=call_id,
                error_type=kind,
                error_message=content,
                latency_ms=latency_ms,
                conversation_id=run,
            )
        )
        self._add(
            e.ErrorReported(component=f"tool:{tool}", error_type=kind, message=content, agent_id=self._agent)
        )


def error_type(message: str) -> str:
    """The kind of an error text: up to its first comma, without names and numbers, joined by `_`.

    `Error: not enough seats on flight HAT290` is `not_enough_seats_on_flight`.
    """
    sentence = message.removeprefix("Error").lstrip(": ").split(",")[0]
    words = [w.lower() for w in re.findall(r"\w+", sentence.replace("-", "")) if not re.search(r"\d", w)]
    return "_".join(words[:8]) or "error"
