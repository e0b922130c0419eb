"""Runs: what came of each task, and how many steps, tokens and dollars it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Index, MetaData, Table

from projections.columns import FLOAT, TEXT, nano_usd, saturated, stamp
from projections.history import history_of, slot_of
from projections.merging import Merger, Row, added, earliest, greatest, latest, least
from projections.once import counted_table, fresh_ever, uncounted_table
from projections.view import Entry, Tables, View
from schemas import events as e
from schemas import topics

COUNTS = (
    "steps", "messages", "tool_calls", "tool_failures", "llm_calls", "llm_failures",
    "input_tokens", "output_tokens", "cost_nanousd", "errors", "anomalies",
)  # fmt: skip


def _llm_completed(event: e.LlmCallCompleted) -> Row:
    return {
        "llm_calls": 1,
        "input_tokens": saturated(event.input_tokens),
        "output_tokens": saturated(event.output_tokens),
        "cost_nanousd": nano_usd(event.cost_usd),
    }


# A call counts when it ended: producers need not say that they asked.
_STEPS: dict[type[e.Event], Callable[[Any], Row]] = {
    e.MessagePosted: lambda _: {"messages": 1},
    e.ToolCallRequested: lambda _: {},
    e.ToolCallCompleted: lambda _: {"tool_calls": 1},
    e.ToolCallFailed: lambda _: {"tool_calls": 1, "tool_failures": 1},
    e.LlmCallRequested: lambda _: {},
    e.LlmCallCompleted: _llm_completed,
    e.LlmCallFailed: lambda _: {"llm_calls": 1, "llm_failures": 1},
    e.ErrorReported: lambda _: {"errors": 1},
}


class Runs(View):
    """One row a correlation id that a run or a step carries; each event counts once."""

    name = "runs"
    about = "what came of each task, and what it took"
    version = 2
    topics = (
        topics.RUNS, topics.MESSAGES, topics.TOOL_CALLS, topics.LLM_CALLS, topics.ERRORS, topics.ANOMALIES,
    )  # fmt: skip

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """Runs by id, the latest event time of each project, their histories, and the names of counted events."""
        runs = Table(
            f"runs{suffix}",
            metadata,
            Column("project", TEXT, primary_key=True),
            Column("run_id", TEXT, primary_key=True),
            least("first_seen", FLOAT),
            greatest("last_seen", FLOAT),
            least("agent_stamp", TEXT),
            earliest("agent_id", TEXT, by="agent_stamp"),
            least("started_stamp", TEXT),
            earliest("started_at", FLOAT, by="started_stamp"),
            earliest("task", TEXT, by="started_stamp"),
            greatest("finished_stamp", TEXT),
            latest("finished_at", FLOAT, by="finished_stamp"),
            latest("outcome", TEXT, by="finished_stamp"),
            latest("score", FLOAT, by="finished_stamp"),
            latest("reason", TEXT, by="finished_stamp"),
            *map(added, COUNTS),
        )
        c = runs.c
        Index(None, c.project, c.first_seen)
        Index(None, c.project, c.agent_id, c.first_seen)
        Index(None, c.project, c.outcome, c.first_seen)
        # No run of a project begins later than its last event: the list of a cut begins there.
        reach = Table(
            f"runs_reach{suffix}",
            metadata,
            Column("project", TEXT, primary_key=True),
            greatest("last_seen", FLOAT),
        )
        return {
            "runs": runs,
            "reach": reach,
            "runs_history": history_of(runs, suffix, order="first_seen"),
            "reach_history": history_of(reach, suffix),
            "counted": counted_table(f"runs_counted{suffix}", metadata),
            "uncounted": uncounted_table(f"runs_uncounted{suffix}", metadata),
        }

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Count each event once, in its run."""
        runs, reach = (Merger(connection, tables[t]) for t in ("runs", "reach"))
        ours = [entry for entry in batch if _run_of(entry) is not None]
        for entry in fresh_ever(connection, tables["counted"], ours, uncounted=tables["uncounted"]):
            project, slot, row = entry.envelope.project, slot_of(entry), _row(entry)
            runs.add((project, _run_of(entry)), row, slot)
            if "last_seen" in row:
                reach.add((project,), row, slot)
        runs.write()
        reach.write()


def _run_of(entry: Entry) -> str | None:
    event, correlation_id = entry.event, entry.envelope.correlation_id
    if isinstance(event, e.RunStarted | e.RunFinished):
        return correlation_id or event.run_id
    return correlation_id if type(event) in _STEPS or isinstance(event, e.AnomalyDetected) else None


def _row(entry: Entry) -> Row:
    """The event's share in its run. Whose run it is, is said best by its start, then its end, then a step."""
    event, time = entry.event, entry.time
    if isinstance(event, e.AnomalyDetected):
        return {"anomalies": 1}  # a finding about a run is no step of it
    when = stamp(time, entry.envelope.source, entry.envelope.id)
    row: Row = {"first_seen": time, "last_seen": time, "agent_id": getattr(event, "agent_id", None)}
    if isinstance(event, e.RunStarted):
        row |= {"started_stamp": when, "started_at": time, "task": event.task}
        said_by = 0
    elif isinstance(event, e.RunFinished):
        row |= {"finished_stamp": when, "finished_at": time, "outcome": event.outcome}
        row |= {"score": event.score, "reason": event.reason}
        said_by = 1
    else:
        row |= {"steps": 1} | _STEPS[type(event)](event)
        said_by = 2
    return row if row["agent_id"] is None else row | {"agent_stamp": f"{said_by}|{when}"}
