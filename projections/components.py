"""What has health: counts, failures, latencies, spend and the last of each signal, per component."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Column, Connection, MetaData, Table
from sqlalchemy.types import Boolean

from projections.columns import FLOAT, INTEGER, TEXT, nano_usd, saturated, stamp
from projections.histogram import bucket_of
from projections.history import history_of, slot_of
from projections.merging import Merger, Row, added, greatest, latest, least
from projections.once import fresh_in_window, uncounted_table, window_table
from projections.view import Entry, Tables, View
from schemas.events import Signal
from schemas.topics import SIGNALS


def spend_of(signal: Signal) -> Row:
    """A signal's tokens and cost, as counts; most have none."""
    row: Row = {}
    if signal.input_tokens:
        row["input_tokens"] = saturated(signal.input_tokens)
    if signal.output_tokens:
        row["output_tokens"] = saturated(signal.output_tokens)
    if signal.cost_usd:
        row["cost_nanousd"] = nano_usd(signal.cost_usd)
    return row


class Components(View):
    """Folds signals, each counted once. A call fails or not where its signal says so; others do not count."""

    name = "components"
    about = "what has health: counts, failures, latency, spend"
    version = 3
    topics = (SIGNALS,)

    def tables(self, metadata: MetaData, suffix: str) -> Tables:
        """Components, the last of each of their signals, latency buckets, their histories, and the window."""
        key = ("project", "component")
        components = Table(
            f"components{suffix}",
            metadata,
            *(Column(name, TEXT, primary_key=True) for name in key),
            least("first_seen", FLOAT),
            greatest("last_seen", FLOAT),
            *map(added, ("signals", "calls", "failures", "errors")),
            *map(added, ("input_tokens", "output_tokens", "cost_nanousd")),
            greatest("error_stamp", TEXT),
            latest("last_error_type", TEXT, by="error_stamp"),
            latest("last_error_time", FLOAT, by="error_stamp"),
        )
        signals = Table(
            f"component_signals{suffix}",
            metadata,
            *(Column(name, TEXT, primary_key=True) for name in (*key, "kind", "name")),
            added("count"),
            least("min_value", FLOAT),
            greatest("max_value", FLOAT),
            greatest("stamp", TEXT),
            latest("time", FLOAT, by="stamp"),
            latest("value", FLOAT, by="stamp"),
            latest("unit", TEXT, by="stamp"),
            latest("failed", Boolean(), by="stamp"),
            latest("severity", TEXT, by="stamp"),
            latest("agent_id", TEXT, by="stamp"),
        )
        latency = Table(
            f"component_latency{suffix}",
            metadata,
            *(Column(name, TEXT, primary_key=True) for name in key),
            Column("bucket", INTEGER, primary_key=True, autoincrement=False),
            added("count"),
        )
        return {
            "components": components,
            "signals": signals,
            "latency": latency,
            "components_history": history_of(components, suffix),
            "signals_history": history_of(signals, suffix),
            "latency_history": history_of(latency, suffix, packed=True),
            "window": window_table(f"components_window{suffix}", metadata),
            "uncounted": uncounted_table(f"components_uncounted{suffix}", metadata),
        }

    def apply(self, connection: Connection, tables: Tables, batch: Sequence[Entry]) -> None:
        """Count each signal once, in its component."""
        components, signals, latency = (
            Merger(connection, tables[t]) for t in ("components", "signals", "latency")
        )
        for entry in fresh_in_window(connection, tables["window"], batch, uncounted=tables["uncounted"]):
            signal = entry.event
            if not isinstance(signal, Signal):
                continue
            key, slot = (entry.envelope.project, signal.component), slot_of(entry)
            when = stamp(entry.time, entry.envelope.source, entry.envelope.id)
            components.add(key, _component_row(entry, signal, when), slot)
            signals.add((*key, signal.kind, signal.name), _signal_row(entry, signal, when), slot)
            if signal.kind == "call" and signal.name == "latency_ms" and signal.value is not None:
                latency.add((*key, bucket_of(signal.value)), _ONE, slot)
        for merger in (components, signals, latency):
            merger.write()


_ONE = {"count": 1}


def _component_row(entry: Entry, signal: Signal, when: str) -> Row:
    row = spend_of(signal)
    row.update(first_seen=entry.time, last_seen=entry.time, signals=1)
    if signal.kind == "call" and signal.failed is not None:
        row.update(calls=1, failures=int(signal.failed))
    if signal.kind == "error":
        row["errors"] = 1
    if signal.error_type is not None:
        row.update(error_stamp=when, last_error_type=signal.error_type, last_error_time=entry.time)
    return row


def _signal_row(entry: Entry, signal: Signal, when: str) -> Row:
    return {
        "count": 1,
        "min_value": signal.value,
        "max_value": signal.value,
        "stamp": when,
        "time": entry.time,
        "value": signal.value,
        "unit": signal.unit,
        "failed": signal.failed,
        "severity": signal.severity,
        "agent_id": signal.agent_id,
    }
