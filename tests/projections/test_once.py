"""Counting each event once."""

from __future__ import annotations

import pytest

from projections.components import Components
from projections.once import WINDOW
from projections.runs import Runs
from projections.store import Store
from projections.view import Entry
from schemas import events as e
from schemas.envelope import Envelope
from streams.folding import window
from tests.conftest import NewDatabase
from tests.projections.material import Log, feed, rows, store_at


def signal(offset: int, id_: str, partition: int = 0, **about: str) -> Entry:
    """A signal at a position."""
    event = e.Signal(component="tool:x", kind="call", name="latency_ms", value=1.0, failed=False)
    envelope = Envelope(id=id_, source="s", type="Signal", time=1.0, **about)  # type: ignore[arg-type]
    return Entry("signals", partition, offset, "tool:x", 1.0, event, envelope)


def counted(store: Store) -> int:
    """Signals counted."""
    with store.read("components") as reading:
        table = reading.tables["components"]["components"]
        return int(reading.connection.execute(table.select()).one().signals)


@pytest.mark.parametrize("apart", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])
@pytest.mark.parametrize("batches", [1, 2])
def test_the_window_is_the_runners(new_database: NewDatabase, apart: int, batches: int) -> None:
    """An event counts as a duplicate exactly where the folds' runner drops it, in one batch or two."""
    entries = [signal(5, "a"), signal(5 + apart, "a"), signal(5 + apart + WINDOW, "a")]
    runners = window.Window()
    fresh = [not runners.seen(entry.envelope.name, entry.offset) for entry in entries]
    store = store_at(new_database(), [Components()])
    for batch in [entries] if batches == 1 else [entries[:1], entries[1:]]:
        store.apply("components", 1, batch, {}, {("signals", 0): batch[-1].offset + 1})
    assert counted(store) == sum(fresh)
    assert WINDOW == window.WINDOW


def test_other_partitions_and_names_are_other_events(new_database: NewDatabase) -> None:
    """The window belongs to its partition, and to project, source and id together; a replay is nobody's."""
    store = store_at(new_database(), [Components()])
    same = [signal(1, "a"), signal(1, "a", partition=1), signal(2, "b"), signal(3, "a", replay_of="anomaly")]
    store.apply("components", 1, same, {}, {})
    assert counted(store) == 3


def test_the_window_does_not_grow(new_database: NewDatabase) -> None:
    """What lies outside of the window is forgotten."""
    store = store_at(new_database(), [Components()])
    for start in range(0, 5 * WINDOW, WINDOW):
        batch = [signal(start + i, f"{start + i}") for i in range(0, WINDOW, 64)]
        store.apply("components", 1, batch, {}, {("signals", 0): batch[-1].offset + 1})
    assert len(rows(store, "components")["window"]) <= WINDOW // 64 + 1
    assert counted(store) == 5 * WINDOW // 64


def test_a_raw_duplicate_counts_once_wherever_it_stands(new_database: NewDatabase) -> None:
    """A run's steps delivered again, days later and in another partition, are counted once."""
    log = Log()
    sent = [
        log.append(e.MessagePosted(agent_id="a", role="user", content="x"), correlation_id="r")
        for _ in range(10)
    ]
    for entry in sent:
        log.repeat(entry, partition=1)
    store = store_at(new_database(), [Runs()])
    feed(store, log.entries, log.ends, batch=7)
    with store.read("runs") as reading:
        (run,) = reading.connection.execute(reading.tables["runs"]["runs"].select())
    assert (run.messages, run.steps) == (10, 10)
