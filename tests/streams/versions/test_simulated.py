"""Cut-overs while everything goes wrong: every input is taken by one version, that which the log says."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import topics
from schemas.codec import Record
from streams.folding.succession import Succession
from streams.simulation import Chaos, Simulation
from tests.streams.test_simulation import CHAOS, GARBAGE, Item, feed, fingerprint
from tests.streams.versions.successors import INSTALLED, Seen, Told, every_version, versions_in

PARTITIONS = 2
BASE = {"intake": 1, "chain": 1, "learned": 1, "silence": 1, "echo": 1}
SWITCH_STEPS = {"switch.ready", "switch.begun", "switch.done"}
Change = tuple[str, int, bool, bool]
"""Fold, version, whether to fold anew in any case, whether at once."""
CHANGES = [
    [("chain", 2, False, False)],
    [("chain", 3, False, False), ("chain", 1, False, False)],
    [("chain", 2, False, False), ("chain", 3, False, False)],
    [("silence", 2, True, False), ("silence", 1, False, False)],
    [("silence", 2, False, False)],
    [("echo", 2, False, False), ("learned", 2, False, False)],
    [("chain", 3, True, False), ("chain", 2, False, True)],
]


async def lived(
    phases: list[list[Item]],
    changes: list[Change],
    chaos: Chaos,
    seed: int,
    interval_s: float = 1e9,
) -> Simulation:
    """Phases of traffic, each followed by a minute's silence; after the first, a change with each."""
    sim = Simulation(
        every_version, seed=seed, chaos=chaos, partitions=PARTITIONS, snapshot_interval_s=interval_s
    )
    with structlog.testing.capture_logs():
        await began(sim)
        for number, items in enumerate(phases):
            feed(sim, number, items)
            if 0 < number <= len(changes):
                fold, to, refold, at_once = changes[number - 1]
                await sim.cut_over(fold, to, refold=refold, at_once=at_once)
            await sim.run()
            sim.advance(61)
            await sim.run()
    return sim


async def began(sim: Simulation) -> None:
    """The oldest versions are in force, as where they were at work before versions were recorded."""
    for tp in sim._parts:
        sim.log.positions[tp] = 0
    await sim.install()
    sim.log.positions.clear()


def told(sim: Simulation, *, late: bool = False) -> tuple[list[Seen], dict[tuple[str, str], Any]]:
    """What should have come out, by the log and its switches."""
    outputs: list[Seen] = []
    states: dict[tuple[str, str], Any] = {}
    for partition in range(PARTITIONS):

        def read(topic: str, partition: int = partition) -> list[Record]:
            return sim.log.records(topic, partition)

        account = Told(read, partition, INSTALLED, BASE, late=late)
        outputs += account.outputs
        states |= account.states
    return sorted(outputs, key=repr), states


def said(sim: Simulation) -> list[Seen]:
    """What came out."""
    return sorted(sim.contents(topics.ANOMALIES.name), key=repr)


async def check(sim: Simulation) -> list[Seen]:
    """Outputs and states are those that the log's own account gives."""
    outputs, expected = told(sim)
    assert said(sim) == outputs
    with structlog.testing.capture_logs():
        states = {key: fingerprint(state) for key, state in (await sim.states()).items() if state is not None}
    assert states == {key: fingerprint(state) for key, state in expected.items()}
    return outputs


def some(seed: int, count: int, phases: int) -> list[list[Item]]:
    """Phases of ordinary items, with duplicates, replayed projects and garbage among them."""
    rng = random.Random(seed)
    kinds = ["metric"] * 12 + ["future", "again", "replayed", *GARBAGE]
    return [
        [Item(rng.choice(kinds), rng.randrange(5), rng.randrange(14, 70)) for _ in range(count)]
        for _ in range(phases)
    ]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: "-".join(f"{x[0]}{x[1]}" for x in c))
async def test_an_undisturbed_cut_over(changes: list[Change]) -> None:
    """Before the switch the old version answers, after it the new one, with the state that was promised."""
    sim = await lived(some(1, 40, 4), changes, Chaos(), 1)
    outputs = await check(sim)
    made = versions_in(outputs)
    for fold, to, *_ in changes:
        assert made[fold, to] > 0
        assert made[fold, 1] > 0


TELLING: list[Change] = [("echo", 2, False, False), ("learned", 2, False, False), ("chain", 3, False, False)]
"""To versions that say something of every record."""
STORM = Chaos(crash=0.04, fault=0.04, rebalance=0.1, zombie=0.1)


async def test_every_step_has_its_crash_and_its_fault() -> None:
    """Over a few seeds workers die and fail at each step around a switch, and the log's account holds."""
    crashes: set[str] = set()
    faults: set[str] = set()
    fenced = 0
    for seed in range(40):
        changes = CHANGES[seed % len(CHANGES)]
        sim = await lived(some(seed, 25, 4), changes, STORM, seed, 0.005)
        await check(sim)
        crashes |= sim.crashes.keys()
        faults |= sim.faults.keys()
        fenced += sim.fenced
        if seed >= len(CHANGES) and crashes >= SWITCH_STEPS and faults >= SWITCH_STEPS:
            break
    assert crashes >= SWITCH_STEPS
    assert faults >= SWITCH_STEPS
    assert fenced > 0


async def test_what_was_switched_at_another_offset_is_found() -> None:
    """The account itself can tell: with the switches one record later, it holds for none of the runs."""
    for number, change in enumerate(TELLING):
        sim = await lived(some(number, 40, 4), [change], Chaos(), number)
        assert said(sim) == told(sim)[0]
        assert said(sim) != told(sim, late=True)[0]


@pytest.mark.parametrize("off", [-4, 4])
async def test_a_worker_that_records_another_offset_is_found(
    monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    """A runner that switched a few offsets away from where it says would be caught."""
    honest = Succession._switched

    def lying(self: Succession, *about: Any) -> Any:
        fact = honest(self, *about)
        return fact.model_copy(update={"position": max(0, fact.position + off)})

    monkeypatch.setattr(Succession, "_switched", lying)
    sim = await lived(some(3, 40, 4), [TELLING[0]], Chaos(), 3)
    assert said(sim) != told(sim)[0]


ITEMS = st.builds(
    Item,
    st.sampled_from(["metric"] * 12 + ["future", "again", "again", "replayed", "replayed", *GARBAGE]),
    st.integers(0, 4),
    st.integers(14, 70),
)
PHASES = st.lists(st.lists(ITEMS, max_size=25), min_size=2, max_size=4)
FOLDS = {"chain": (1, 2, 3), "silence": (1, 2), "echo": (1, 2), "learned": (1, 2)}


@st.composite
def ways(draw: st.DrawFn) -> list[Change]:
    """Changes one after the other, each to a version that is not in force, rolling back among them."""
    in_force = dict.fromkeys(FOLDS, 1)
    changes: list[Change] = []
    for _ in range(draw(st.integers(1, 3))):
        fold = draw(st.sampled_from(sorted(FOLDS)))
        to = draw(st.sampled_from([v for v in FOLDS[fold] if v != in_force[fold]]))
        changes.append((fold, to, draw(st.booleans()), draw(st.sampled_from([False, False, True]))))
        in_force[fold] = to
    return changes


ANYTHING = given(PHASES, ways(), CHAOS, st.integers(0, 2**32), st.sampled_from([0.0, 0.005, 1e9]))
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def holds(phases: Any, changes: Any, chaos: Chaos, seed: int, interval_s: float) -> None:
    """The log's account of a run holds."""

    async def run() -> None:
        await check(await lived(phases, changes, chaos, seed, interval_s))

    asyncio.run(run())


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@ANYTHING
def test_every_input_is_taken_by_the_version_that_the_log_says(
    phases: Any, changes: Any, chaos: Chaos, seed: int, interval_s: float
) -> None:
    """Whatever is switched to and back, and whatever dies meanwhile: outputs and states are what the log says."""
    holds(phases, changes, chaos, seed, interval_s)


@pytest.mark.prove
@settings(max_examples=2000, deadline=None, suppress_health_check=SLOW)
@ANYTHING
def test_every_input_is_taken_by_the_version_that_the_log_says_ever(
    phases: Any, changes: Any, chaos: Chaos, seed: int, interval_s: float
) -> None:
    """The same, two thousand times."""
    holds(phases, changes, chaos, seed, interval_s)
