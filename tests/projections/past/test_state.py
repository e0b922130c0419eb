"""The rows at a cut are those of a view that was given the records before it and no others."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.agents import Agents
from projections.components import Components
from projections.past import Past
from projections.runs import Runs
from projections.store import Store
from projections.view import Place, View
from schemas import events as e
from tests.conftest import NewDatabase
from tests.projections.material import BEGIN, Log, busy_log, feed, interleaved, rows, store_at
from tests.projections.past.conftest import BUCKET
from tests.projections.past.memory import MemoryLog, Rows, before, rows_at

VIEWS: tuple[type[View], ...] = (Components, Agents, Runs)
Step = tuple[int, int, int, int, float, int]
"""(kind, whose, partition, event time, value, which one again)."""
STEPS = st.lists(
    st.tuples(
        st.integers(0, 9), st.integers(0, 2), st.integers(0, 1), st.integers(-9, 9),
        st.sampled_from([0.5, 7.0, 7.1, -3.0, 1e308]), st.integers(0, 40),
    ),
    max_size=70,
)  # fmt: skip


def log_of(steps: Iterable[Step]) -> Log:
    """A log of what the steps say; the last kinds deliver an earlier event again, in its place."""
    log = Log()
    for kind, whose, partition, at, value, which in steps:
        if kind >= 8:
            if log.entries:
                log.repeat(log.entries[which % len(log.entries)])
            continue
        agent, run = ("a", "b\x00", "b\ufffd")[whose], f"r{whose}"
        log.append(event_of(kind, agent, run, value), partition=partition, at=BEGIN + at, correlation_id=run)
    return log


def event_of(kind: int, agent: str, run: str, value: float) -> e.Event:
    """One of eight kinds."""
    huge = 2**62 if value > 100 else 3
    call: dict[str, Any] = {"agent_id": agent, "call_id": "c"}
    made: list[e.Event] = [
        e.Signal(
            component=f"tool:{agent}", kind="call", name="latency_ms", value=value,
            failed=value > 7, agent_id=agent, input_tokens=huge, error_type="E" if value > 7 else None,
        ),
        e.Signal(component=f"tool:{agent}", kind="metric", name="load", value=value, unit="u"),
        e.Signal(component="c", kind="error", name="E", error_type="E", severity="error", agent_id=agent),
        e.RunStarted(run_id=run, agent_id=agent, task=f"{value}"),
        e.RunFinished(run_id=run, agent_id=agent, outcome="success", score=abs(value) % 1),
        e.LlmCallCompleted(**call, provider_name="p", request_model="m", input_tokens=huge, cost_usd=0.1),
        e.AgentHeartbeat(agent_id=agent, load=abs(value), version=f"{value}"),
        e.AgentRetired(agent_id=agent, reason="x"),
    ]  # fmt: skip
    return made[kind]


def shown(store: Store, view: str) -> Rows:
    """What `rows_at` gives, of a view as it is."""
    found = rows(store, view)
    return {name: found[name] for name in found if f"{name}_history" in found and name != "reach"}


def cut_of(log: Log, shares: Iterable[float]) -> dict[Place, int]:
    """A cut that leaves each place a share of its offsets."""
    shares = list(shares)
    return {
        place: offset
        for number, (place, end) in enumerate(sorted(log.ends.items()))
        if (offset := round(end * shares[number % len(shares)]))
    }


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=STEPS, seed=st.integers(0, 9), batch=st.sampled_from([1, 4, 1000]),
    shares=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)  # fmt: skip
async def test_a_cut_shows_what_was_before_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], seed: int, batch: int, shares: list[float]
) -> None:
    """Whatever the log, its interleaving, its batches and the cut: all rows of all tables are the same.

    With late events, duplicates, sums that end, and keys with NUL.
    """
    log, views = log_of(steps), [view() for view in VIEWS]
    folder = tmp_path_factory.mktemp("stores")
    live, fresh = (store_at(f"sqlite:///{folder / name}", views) for name in ("live", "fresh"))
    feed(live, interleaved(log.entries, seed), log.ends, batch=batch)
    cut = cut_of(log, shares)
    feed(fresh, before(log, cut), cut)
    past = Past(live, MemoryLog(log))
    for view in views:
        assert await rows_at(past, live, view.name, cut) == shown(fresh, view.name), view.name
    live.close()
    fresh.close()


@pytest.mark.parametrize("seed", range(3))
async def test_of_an_event_in_two_partitions_one_copy_counts(new_database: NewDatabase, seed: int) -> None:
    """A cut shows what a view would that was given the copies which the live view counted, and no others."""
    log, view = busy_log(seed, events=300), Runs()
    live = store_at(new_database(), [view])
    feed(live, interleaved(log.entries, seed), log.ends, batch=50)
    out = {row[:3] for row in rows(live, "runs")["uncounted"]}
    assert any((x.topic, 1 - x.partition, x.offset) in out for x in log.entries), "no copies astray"
    past, chance = Past(live, MemoryLog(log)), random.Random(seed)
    for _ in range(4):
        cut = cut_of(log, [chance.random() for _ in range(5)])
        counted = [x for x in before(log, cut) if (x.topic, x.partition, x.offset) not in out]
        fresh = store_at(new_database(), [view])
        feed(fresh, counted, cut)
        assert await rows_at(past, live, "runs", cut) == shown(fresh, "runs")
        fresh.close()


@pytest.mark.parametrize("view", VIEWS)
def test_a_history_does_not_depend_on_how_it_was_read(new_database: NewDatabase, view: type[View]) -> None:
    """However places interleave and batches end, the same log makes the same history, row by row."""
    log = busy_log(3, events=500, astray=False)
    found = []
    for seed, batch in ((1, 1000), (2, 13), (3, 1)):
        store = store_at(new_database(), [view()])
        feed(store, interleaved(log.entries, seed), log.ends, batch=batch)
        found.append({n: r for n, r in rows(store, view.name).items() if n.endswith("_history")})
        store.close()
    assert found[0] == found[1] == found[2]
    assert all(some for some in found[0].values())


def test_a_rebuilt_view_has_the_same_history(new_database: NewDatabase) -> None:
    """A generation that was built beside the live one tells the past as that did."""
    log = busy_log(4, events=400, astray=False)
    store = store_at(new_database(), [Runs()])
    feed(store, log.entries, log.ends, batch=30)
    live = rows(store, "runs")
    topics = {topic.name for topic in Runs.topics}
    generation = store.begin_build("runs")
    ours = interleaved([x for x in log.entries if x.topic in topics], 7)
    ends = {place: end for place, end in log.ends.items() if place[0] in topics}
    store.apply("runs", generation, ours, {}, ends)
    assert store.swap("runs", generation, ends)
    assert rows(store, "runs") == live


async def test_what_a_view_refused_is_left_out_again(new_database: NewDatabase) -> None:
    """An entry that the view could not take, and a record that is no event, do not come in by the tail."""
    log = Log()
    message = {"agent_id": "a", "role": "user", "content": "x"}
    log.append(e.MessagePosted(**message), correlation_id="r")
    bad = log.append(e.MessagePosted(**message), correlation_id="x" * 3_000)
    spoilt = log.append(e.MessagePosted(**message), correlation_id="r")
    log.append(e.MessagePosted(**message), correlation_id="r")
    store = store_at(new_database(), [Runs()])
    read = [x for x in log.entries if x is not spoilt]
    refused = store.apply("runs", 1, read, {}, log.ends, [spoilt])
    assert [r.entry for r in refused] == [bad]
    (run,) = (await rows_at(Past(store, MemoryLog(log)), store, "runs", log.ends))["runs"]
    assert run == shown(store, "runs")["runs"][0]
    assert {x[2] for x in rows(store, "runs")["uncounted"]} == {bad.offset, spoilt.offset}


def test_a_key_has_a_row_only_for_buckets_that_touched_it(new_database: NewDatabase) -> None:
    """A history grows with what happens to a key, not with the log; what was packed stays one row."""
    log = Log()
    for number in range(20 * BUCKET):
        name = "rare" if number % (10 * BUCKET) == 0 else "busy"
        log.append(e.Signal(component=name, kind="call", name="latency_ms", value=2.0**number % 97))
    store = store_at(new_database(), [Components()])
    feed(store, log.entries, log.ends, batch=3)
    found = rows(store, "components")
    buckets = 1 + log.entries[-1].offset // BUCKET
    for name in ("components_history", "latency_history", "signals_history"):
        assert len([r for r in found[name] if r[1] == "busy"]) == buckets
        assert len([r for r in found[name] if r[1] == "rare"]) == 2
