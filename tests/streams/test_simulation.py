"""Whatever goes wrong, final state and outputs are those of an undisturbed run, content by content."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import events as e
from schemas import topics
from schemas.envelope import Envelope, to_headers
from streams.simulation import Chaos, Simulation
from tests.streams.folds import CURSED, TOO_LOUD, UNLUCKY, Model, every
from tests.streams.test_task import STEPS

GARBAGE = {
    "undecodable": (b"\x00\x00\x00\x00\x00\xff\xff", b"default/c0"),
    "unframed": (b"{}", b"default/c1"),
    "unknown id": (b"\x00\x00\x00\xff\xff\x02", b"default/c2"),
    "tombstone": (None, b"default/c0"),
    "key not UTF-8": (b"", b"\xff\xfe"),
}
VALUES = st.one_of(st.integers(0, 100), st.sampled_from([UNLUCKY, TOO_LOUD, CURSED]))


class Item(NamedTuple):
    """One record: a metric, a duplicate of the `value`-th one, garbage, or a signal of a replayed project."""

    kind: str
    component: int
    value: int


KINDS = st.sampled_from(["metric"] * 12 + ["future", "again", "again", "replayed", "replayed", *GARBAGE])
ITEMS = st.builds(Item, KINDS, st.integers(0, 4), VALUES)
PHASES = st.lists(st.lists(ITEMS, max_size=30), min_size=1, max_size=3)
"""What is produced between two silences."""
CHAOS = st.builds(
    Chaos,
    crash=st.sampled_from([0.0, 0.01, 0.04]),
    fault=st.sampled_from([0.0, 0.01, 0.04]),
    rebalance=st.sampled_from([0.0, 0.1]),
    zombie=st.sampled_from([0.0, 0.1]),
    workers=st.integers(1, 3),
)


def feed(sim: Simulation, phase: int, items: list[Item]) -> None:
    """Append the items, as producers would; times lie within a second of the log's."""
    sent: list[tuple[Item, str, float]] = []
    for i, item in enumerate(items):
        component = f"c{item.component}"
        if item.kind in GARBAGE:
            value, key = GARBAGE[item.kind]
            if value == b"":
                value = sim.codec.encode(e.MetricReported(component=component, name="m", value=item.value))
            for topic in (topics.METRICS.name, topics.SIGNALS.name):
                sim.log.append(topic, key, value, to_headers(envelope(f"g{phase}-{i}", topic)), 0)
            continue
        if item.kind == "replayed":
            event = e.Signal(component=component, kind="metric", name="m", value=item.value)
            time = 1e9 + 20 * i - item.value  # not in order
            sim.produce(event, id=f"r{phase}-{i}", time=time, project="old", clock="replay")
            continue
        id_, time = f"e{phase}-{i}", sim.log.now + i / 100
        if item.kind == "again":
            if not sent:
                continue
            item, id_, time = sent[item.value % len(sent)]  # noqa: PLW2901 - it is that one, once more
        elif item.kind == "future":
            time += 3600
        sent.append((item, id_, time))
        metric = e.MetricReported(component=f"c{item.component}", name="m", value=item.value)
        sim.produce(metric, id=id_, time=time, correlation_id="run-1")


def envelope(id_: str, topic: str) -> Envelope:
    """Of a record that is garbage otherwise."""
    return Envelope(id=id_, source="test", type="MetricReported", time=1.7e9, project="default")


async def lived(phases: list[list[Item]], chaos: Chaos, seed: int = 0, interval_s: float = 1e9) -> Simulation:
    """All phases, each followed by a minute's silence."""
    sim = Simulation(every, seed=seed, chaos=chaos, partitions=2, snapshot_interval_s=interval_s)
    with structlog.testing.capture_logs():
        for number, items in enumerate(phases):
            feed(sim, number, items)
            await sim.run()
            sim.advance(61)
            await sim.run()
    return sim


async def remains(sim: Simulation) -> dict[str, Any]:
    """All that must not depend on what went wrong. Offsets of dead letters do, as partitions interleave."""
    with structlog.testing.capture_logs():
        states = await sim.states()
    letters = [d.event for d in sim.outputs(topics.DEAD_LETTERS.name)]
    return {
        "signals": sim.contents("signals"),
        "anomalies": sim.contents("anomalies"),
        "states": {k: fingerprint(s) for k, s in states.items()},
        "letters": sorted(
            (x.fold or "", x.topic, x.key or b"", x.value or b"", x.error_type, x.error_message)
            for x in letters
            if isinstance(x, e.DeadLetter)
        ),
    }


def fingerprint(state: Any) -> Any:
    """The state itself, or what its models say of ten values."""
    if isinstance(state, Model):
        return state.last, state.mean.get(), [state.trees.score_one({"x": i / 10}) for i in range(10)]
    return state


def check(phases: list[list[Item]], chaos: Chaos, seed: int, interval_s: float) -> None:
    """A disturbed run remains what an undisturbed one is."""

    async def both() -> None:
        expected = await remains(await lived(phases, Chaos()))
        found = await remains(await lived(phases, chaos, seed, interval_s))
        for name, content in expected.items():
            assert found[name] == content, name

    asyncio.run(both())


ANYTHING = given(PHASES, CHAOS, st.integers(0, 2**32), st.sampled_from([0.0, 0.005, 1e9]))
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@ANYTHING
def test_nothing_leaves_a_trace(phases: list[list[Item]], chaos: Chaos, seed: int, interval_s: float) -> None:
    """Crashes, faults, rebalances, zombies, duplicates and poison of every kind change neither state nor outputs."""
    check(phases, chaos, seed, interval_s)


@pytest.mark.prove
@settings(max_examples=3000, deadline=None, suppress_health_check=SLOW)
@ANYTHING
def test_nothing_leaves_a_trace_ever(
    phases: list[list[Item]], chaos: Chaos, seed: int, interval_s: float
) -> None:
    """The same, three thousand times."""
    check(phases, chaos, seed, interval_s)


def some(seed: int, count: int, phases: int = 2) -> list[list[Item]]:
    """Phases of all kinds of items."""
    rng = random.Random(seed)
    kinds = ["metric"] * 12 + ["future", "again", "replayed", *GARBAGE]
    values = [*range(100), UNLUCKY, TOO_LOUD, CURSED]
    return [
        [Item(rng.choice(kinds), rng.randrange(5), rng.choice(values)) for _ in range(count)]
        for _ in range(phases)
    ]


async def test_every_step_has_its_crash_and_its_fault() -> None:
    """Over a few seeds the simulation dies and fails at each named step, is fenced, and comes out right."""
    crashes: set[str] = set()
    faults: set[str] = set()
    fenced = 0
    for seed in range(12):
        phases = some(seed, 12, phases=8)
        expected = await remains(await lived(phases, Chaos()))
        assert expected["letters"]
        assert any(b"silence" in value for _, value, _ in expected["anomalies"])
        chaos = Chaos(crash=0.06, fault=0.06, rebalance=0.1, zombie=0.1)
        sim = await lived(phases, chaos, seed, 0.005)
        assert await remains(sim) == expected
        crashes |= sim.crashes.keys()
        faults |= sim.faults.keys()
        fenced += sim.fenced
        if fenced and crashes == faults == set(STEPS):
            break
    assert crashes == faults == set(STEPS)
    assert fenced > 0


def digest(seed: int) -> str:
    """All that a seed did: every record of every topic, every step, crash and fault."""
    chaos = Chaos(crash=0.03, fault=0.02, rebalance=0.1, zombie=0.1)
    sim = asyncio.run(lived(some(seed, 30), chaos, seed, 0.005))
    records = {t: sim.contents(t) for t in sorted(sim.log.partitions)}
    shown = repr([(t, [(k, v) for k, v, _ in found]) for t, found in records.items() if "changelog" not in t])
    names = [[r.key for r in sim.log.records("signals.changelog", p)] for p in range(2)]
    return repr(
        (shown, names, sorted(sim.steps.items()), sorted(sim.crashes.items()), sorted(sim.faults.items()))
    )


def test_what_a_seed_does_it_does_again() -> None:
    """In another process, with another hash seed, the same seed does the same, down to the order of snapshots."""
    program = "from tests.streams.test_simulation import digest; print(digest(4))"
    there = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert there.stdout.strip() == digest(4)


def test_chaos_is_needed_for_trouble() -> None:
    """Without chaos nothing crashes, fails or is fenced, and all that was produced is folded."""
    sim = asyncio.run(lived(some(1, 40), Chaos()))
    assert not sim.crashes
    assert not sim.faults
    assert sim.fenced == 0
    metrics = sum(len(sim.log.records(topics.METRICS.name, p)) for p in range(2))
    assert sum(sim.log.positions[topics.METRICS.name, p] for p in range(2)) == metrics
