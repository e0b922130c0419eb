"""The fleet: what agents said they are, that they live, and what they did."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from sqlalchemy import Column, Connection, MetaData, Table

from projections.columns import FLOAT, TEXT, stamp
from projections.components import spend_of
from projections.history import history_of, slot_of
from projections.merging import Merger, Row, added, greatest, latest, least
from projections.once import fresh_in_window, uncounted_table, window_table
from projections.view import Entry, Tables, View
from schemas import events as e
from schemas.topics import LIFECYCLE, SIGNALS


class Agents(View):
    """What agents are comes from agent.lifecycle, what they did is counted from signals, once each.

    Of what an agent says of itself the latest word stands, so duplicates do not matter.
    """

    name = "agents"
    about = "the fleet: who is there, and what each did"
    version = 3
    topics = (LIFECYCLE, SIGNALS)

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """Agents by id with their history, and the window of counted signals."""
        agents = Table(
            f"agents{suffix}",
            metadata,
            Column("project", TEXT, primary_key=True),
            Column("agent_id", TEXT, primary_key=True),
            least("first_seen", FLOAT),
            greatest("last_seen", FLOAT),
            greatest("announced_stamp", TEXT),
            *(latest(n, TEXT, by="announced_stamp") for n in ("role", "capabilities", "models")),
            latest("announced_at", FLOAT, by="announced_stamp"),
            greatest("alive_stamp", TEXT),
            latest("version", TEXT, by="alive_stamp"),
            greatest("heartbeat_stamp", TEXT),
            latest("heartbeat_at", FLOAT, by="heartbeat_stamp"),
            latest("load", FLOAT, by="heartbeat_stamp"),
            greatest("retired_stamp", TEXT),
            latest("retired_at", FLOAT, by="retired_stamp"),
            latest("retired_reason", TEXT, by="retired_stamp"),
            *map(added, ("heartbeats", "calls", "failures", "errors", "runs", "failed_runs")),
            *map(added, ("input_tokens", "output_tokens", "cost_nanousd")),
        )
        return {
            "agents": agents,
            "agents_history": history_of(agents, suffix),
            "window": window_table(f"agents_window{suffix}", metadata),
            "uncounted": uncounted_table(f"agents_uncounted{suffix}", metadata),
        }

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Merge what agents said of themselves, and count what they did."""
        agents = Merger(connection, tables["agents"])
        signals = [entry for entry in batch if entry.topic == SIGNALS.name]
        for entry in fresh_in_window(connection, tables["window"], signals, uncounted=tables["uncounted"]):
            signal = entry.event
            if isinstance(signal, e.Signal) and signal.agent_id is not None:
                agents.add((entry.envelope.project, signal.agent_id), _did(entry, signal), slot_of(entry))
        for entry in batch:
            event = entry.event
            if isinstance(event, e.AgentAnnounced | e.AgentHeartbeat | e.AgentRetired):
                agents.add((entry.envelope.project, event.agent_id), _said(entry, event), slot_of(entry))
        agents.write()


def _said(entry: Entry, event: e.AgentAnnounced | e.AgentHeartbeat | e.AgentRetired) -> Row:
    when = stamp(entry.time, entry.envelope.source, entry.envelope.id)
    row: Row = {"first_seen": entry.time, "last_seen": entry.time}
    if isinstance(event, e.AgentRetired):
        return row | {"retired_stamp": when, "retired_at": entry.time, "retired_reason": event.reason}
    row |= {"alive_stamp": when, "version": event.version}
    if isinstance(event, e.AgentHeartbeat):
        return row | {"heartbeat_stamp": when, "heartbeat_at": entry.time, "load": event.load}
    return row | {
        "announced_stamp": when,
        "announced_at": entry.time,
        "role": event.role,
        "capabilities": orjson.dumps(event.capabilities).decode(),
        "models": orjson.dumps(event.models).decode(),
    }


def _did(entry: Entry, signal: e.Signal) -> Row:
    row: Row = {"first_seen": entry.time, "last_seen": entry.time}
    if signal.kind == "call":
        row |= spend_of(signal) | {"calls": 1, "failures": int(bool(signal.failed))}
    elif signal.kind == "run":
        row |= {"runs": 1, "failed_runs": int(bool(signal.failed))}
    elif signal.kind == "error":
        row["errors"] = 1
    elif signal.kind == "heartbeat":
        row["heartbeats"] = 1
    return row
