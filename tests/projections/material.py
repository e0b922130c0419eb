"""A small log for the views' tests: entries as the views process would hand them over."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace
from sqlalchemy import select

from projections.store import Store
from projections.view import Entry, Place, View
from schemas import events as e
from schemas.envelope import Envelope
from schemas.topics import key_of, topic_of

BEGIN = 1_700_000_000.0


@dataclass
class Log:
    """Appends events to places; offsets have gaps, as markers of transactions leave them."""

    entries: list[Entry] = field(default_factory=list)
    ends: dict[Place, int] = field(default_factory=dict)

    def append(
        self,
        event: e.Event,
        *,
        partition: int = 0,
        at: float | None = None,
        producer_key: str | None = None,
        **about: Any,
    ) -> Entry:
        """Add one event; `about` are fields of its envelope."""
        topic = topic_of(type(event)).name
        offset = self.ends.get((topic, partition), 0)
        number = len(self.entries)
        known = {"id": f"id-{number}", "source": "test", "type": type(event).__name__}
        envelope = Envelope(**{"time": BEGIN + number if at is None else at, **known, **about})
        key = key_of(event)
        return self._put(Entry(topic, partition, offset, key, envelope.time, event, envelope, producer_key))

    def repeat(self, entry: Entry, partition: int | None = None) -> Entry:
        """Deliver an event once more."""
        partition = entry.partition if partition is None else partition
        offset = self.ends.get((entry.topic, partition), 0)
        return self._put(replace(entry, partition=partition, offset=offset))

    def _put(self, entry: Entry) -> Entry:
        self.entries.append(entry)
        self.ends[entry.topic, entry.partition] = entry.offset + 1 + (entry.offset % 7 == 6)
        return entry


def feed(store: Store, entries: Iterable[Entry], ends: dict[Place, int], batch: int = 10_000) -> None:
    """Apply a log to all views of a store, in batches, in the order given."""
    entries = list(entries)
    for name, view in store.views.items():
        read = {topic.name for topic in view.topics}
        mine = [entry for entry in entries if entry.topic in read]
        generation, start = store.live(name)
        for index in range(0, len(mine), batch):
            part = mine[index : index + batch]
            end = {(x.topic, x.partition): x.offset + 1 for x in part}
            refused = store.apply(name, generation, part, {p: start[p] for p in end if p in start}, end)
            assert refused == []
            start = {**start, **end}
        last = {place: offset for place, offset in ends.items() if place[0] in read}
        store.apply(name, generation, [], {p: start[p] for p in last if p in start}, last)


def interleaved(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Another interleaving of the same places, each in its order."""
    queues: dict[Place, list[Entry]] = {}
    for entry in entries:
        queues.setdefault((entry.topic, entry.partition), []).append(entry)
    chance = random.Random(seed)
    shuffled = []
    while queues:
        place = chance.choice(sorted(queues))
        shuffled.append(queues[place].pop(0))
        if not queues[place]:
            del queues[place]
    return shuffled


def rows(store: Store, name: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a view's tables, sorted by primary key."""
    with store.read(name) as reading:
        return {
            table: [
                tuple(row)
                for row in reading.connection.execute(
                    select(columns).order_by(*(c for c in columns.primary_key))
                )
            ]
            for table, columns in reading.tables[name].items()
        }


def busy_log(seed: int = 1, events: int = 600, *, astray: bool = True) -> Log:
    """Runs of several agents in two projects, with failures, duplicates and all kinds of events.

    `astray`: a raw event may be delivered again in another partition.
    """
    chance = random.Random(seed)
    log = Log()
    for number in range(events):
        agent, run = f"agent-{chance.randrange(12)}", f"run-{chance.randrange(12)}"
        about: dict[str, Any] = {
            "partition": chance.randrange(2),
            "project": chance.choice(["default", "other"]),
            "correlation_id": run,
            "at": BEGIN + chance.randrange(10_000) / 8,
            "producer_key": f"key-{number % 5}" if number % 3 else None,
        }
        event = _event(chance, agent, run)
        entry = log.append(event, **about)
        if chance.random() < 0.1:
            anywhere = astray and not isinstance(event, e.Signal)
            log.repeat(entry, chance.randrange(2) if anywhere else entry.partition)
    return log


def _event(chance: random.Random, agent: str, run: str) -> e.Event:
    call = {"agent_id": agent, "call_id": "c"}
    tool = call | {"tool_name": chance.choice(["search", "shell"])}
    llm = call | {"provider_name": "openai", "request_model": "gpt-4o"}
    component = chance.choice(["tool:search", "model:gpt-4o", f"agent:{agent}"])
    made: list[e.Event] = [
        e.RunStarted(run_id=run, agent_id=agent, task=f"task {chance.random()}"),
        e.RunFinished(run_id=run, agent_id=agent, outcome=chance.choice(["success", "failure"]), score=0.5),
        e.MessagePosted(agent_id=agent, role="user", content="hello"),
        e.ToolCallRequested(**tool),
        e.ToolCallCompleted(**tool, latency_ms=chance.random() * 100),
        e.ToolCallFailed(**tool, error_type="Timeout"),
        e.LlmCallCompleted(**llm, input_tokens=7, output_tokens=3, cost_usd=chance.random()),
        e.LlmCallFailed(**llm, error_type="RateLimit"),
        e.ErrorReported(component=component, error_type="Oops", agent_id=agent),
        e.MetricReported(component=component, name="load", value=chance.random()),
        e.AgentAnnounced(agent_id=agent, role=f"role {chance.random()}", version="1", capabilities=["x"]),
        e.AgentHeartbeat(agent_id=agent, load=chance.random(), version=f"{chance.random()}"),
        e.AgentRetired(agent_id=agent, reason="done"),
        e.Signal(
            component=component,
            kind="call",
            name="latency_ms",
            value=chance.expovariate(0.01),
            unit="ms",
            failed=chance.random() < 0.3,
            agent_id=agent,
            input_tokens=chance.randrange(100),
            cost_usd=chance.random(),
        ),
        e.Signal(component=component, kind="error", name="Oops", error_type="Oops", agent_id=agent),
        e.AnomalyDetected(
            component=component,
            metric="latency_ms",
            value=1.0,
            expected=0.5,
            score=chance.random(),
            threshold=0.5,
            severity=chance.choice(["warning", "critical"]),
            detector="test",
        ),
        chance.choice(_effects(chance, f"effect-{chance.randrange(5)}")),
        e.DeadLetter(topic="agent.errors", partition=0, offset=1, error_type="DecodeError", value=b"\xff"),
    ]
    return chance.choice(made)


def _effects(chance: random.Random, effect_id: str) -> list[e.Event]:
    about: dict[str, Any] = {"reactor": "r", "effect_id": effect_id, "attempt": chance.randrange(1, 4)}
    webhook = f"w-{chance.randrange(3)}"
    return [
        e.EffectIntended(**about, target="t", idempotent=True),
        e.EffectDeferred(**about, target="t", until=chance.random(), error_type="E"),
        e.EffectCompleted(
            **about, target="t", outcome=chance.choice(["succeeded", "failed"]), latency_ms=1.0
        ),
        e.WebhookRegistered(webhook_id=webhook, url=f"https://{chance.random()}.test/", types=["DeadLetter"]),
        e.WebhookRemoved(webhook_id=webhook),
    ]


def store_at(url: str, views: Sequence[View]) -> Store:
    """A prepared store."""
    store = Store(url, views)
    store.prepare()
    return store
