"""One partition through changes of version: what is kept, what is folded anew, and what is recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest
import structlog

from processors.fold import Fold, Output
from processors.versions import by_name
from schemas import events as e
from schemas import topics
from schemas.envelope import new_id
from streams.folding.rounds import MARKER_KEY, STATE_PREFIX
from streams.folding.snapshots import dump_state
from streams.folding.task import PartitionTask
from streams.partitions.log import Fenced, LogUnavailable
from streams.simulation import Crash
from streams.versions.decisions import VersionNotInstalled
from tests.streams.folds import CURSED, UNLUCKY, Chain, Echo, Learned, Links, Silence, Watch, value_of
from tests.streams.harness import ALWAYS, CHANGELOG, CODEC, NEVER, SIGNALS, Partition, states
from tests.streams.versions.successors import Chain2, Chain3, Echo2, Silence2, Told

VERSIONS = topics.versions(SIGNALS)
Makes = Callable[[], Iterable[Fold[Any]]]


def both() -> list[Fold[Any]]:
    """Two versions, and one that has no other."""
    return [Chain(), Chain2(), Learned()]


async def began(folds: Makes = both, *, interval_s: float = NEVER, base: int = 1) -> Partition:
    """A partition whose folds begin with version `base`."""
    bed = Partition(folds, interval_s=interval_s)
    for name in by_name(folds()):
        await decide(bed, name, base if name in {"chain", "silence", "echo"} else 1, None)
    return bed


async def decide(
    bed: Partition,
    fold: str,
    to: int,
    from_version: int | None,
    *,
    state: Any = "refold",
    at_once: bool = False,
    proposed: bool = True,
) -> str:
    """Write that a version is to take over."""
    record = e.FoldCutOver(
        fold=fold,
        cut_over_id=new_id(),
        phase="proposed",
        from_version=from_version,
        to_version=to,
        state=state,
        at_once=at_once,
        by="test",
    )
    if proposed and from_version is not None and not at_once:
        await bed.decisions.write(record, bed.log.now)
    await bed.decisions.write(record.model_copy(update={"phase": "decided"}), bed.log.now)
    assert bed.decisions.plan.folds[fold].version == to
    return record.cut_over_id


def facts(bed: Partition) -> list[e.FoldSwitched]:
    """The switches that were recorded, in order."""
    decoded = [CODEC.decode(r.value) for r in bed.log.records(VERSIONS, 0)]
    return [fact for fact in decoded if isinstance(fact, e.FoldSwitched)]


def put(bed: Partition, count: int, keys: int = 4) -> None:
    """More signals."""
    for i in range(count):
        bed.put(20 + bed._made % 37, f"c{i % keys}")


def check(bed: Partition, task: PartitionTask, folds: Makes | None = None, base: int = 1) -> None:
    """Outputs and states are those that the log's own account gives."""
    installed = by_name((folds or bed.folds)())
    bases = {name: base if len(v) > 1 else 1 for name, v in installed.items()}
    told = Told(lambda topic: bed.log.records(topic, 0), 0, installed, bases, until=task.position)
    assert sorted(bed.outputs(), key=repr) == sorted(told.outputs, key=repr)
    plain = {key: value for key, value in states(task.engine).items() if key[0] != "learned"}
    assert plain == {k: dump_state(s) for k, s in told.states.items() if k[0] != "learned"}


async def lived(bed: Partition, *changes: tuple[str, int, int, Any], batch: int = 7) -> PartitionTask:
    """Twenty-one records, and as many after each change, by one worker."""
    task = await bed.up()
    put(bed, 21)
    await bed.drain(task, batch)
    for fold, from_version, to, state in changes:
        await decide(bed, fold, to, from_version, state=state)
        put(bed, 21)
        await bed.drain(task, batch)
    return task


# --- restores ----------------------------------------------------------------------------------


async def nothing(bed: Partition) -> None:
    """Leave it as it is."""


async def lost(bed: Partition) -> None:
    """The changelog is gone."""
    bed.erase(CHANGELOG)


async def marker_missing(bed: Partition) -> None:
    """The marker was deleted."""
    bed.log.append(CHANGELOG, MARKER_KEY, None, (), 0)


async def other_secret(bed: Partition) -> None:
    """The key that signs was changed."""
    bed.secret = b"another"


CHANGES: list[list[tuple[str, int, int, Any]]] = [
    [("chain", 1, 2, "refold")],
    [("chain", 1, 2, "refold"), ("chain", 2, 1, "refold")],
    [("chain", 1, 3, "migrate")],
    [("chain", 1, 2, "refold"), ("chain", 2, 3, "migrate")],
    [("chain", 1, 3, "migrate"), ("chain", 3, 1, "refold"), ("chain", 1, 3, "migrate")],
]


@pytest.mark.parametrize("interval_s", [ALWAYS, NEVER])
@pytest.mark.parametrize("damage", [nothing, lost, marker_missing, other_secret], ids=lambda d: d.__name__)
@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: "-".join(str(x[2]) for x in c))
async def test_a_restore_after_changes(changes: Any, damage: Any, interval_s: float) -> None:
    """Whatever became of the snapshots, the successor has the state that the switches in the log say, and goes on."""
    bed = await began(lambda: [Chain(), Chain2(), Chain3(), Learned()], interval_s=interval_s)
    task = await lived(bed, *changes)
    assert [fact.version for fact in facts(bed)] == [to for _, _, to, _ in changes]
    check(bed, task)
    await damage(bed)
    again = await bed.up()
    check(bed, again)
    put(bed, 10)
    await bed.drain(again, 3)
    check(bed, again)
    assert bed.letters() == []


@pytest.mark.parametrize(
    "step", ["switch.begun", "commit.sent", "commit.done", "switch.done", "batch.snapshot"]
)
@pytest.mark.parametrize("state", ["refold", "migrate"])
async def test_a_death_around_the_switch(step: str, state: str) -> None:
    """A worker dies on the way to its switch or right behind it; the next one goes by what is in the log."""
    bed = await began(lambda: [Chain(), Chain3()], interval_s=ALWAYS)
    task = await lived(bed)
    await decide(bed, "chain", 3, 1, state=state)
    put(bed, 30)
    bed.crash(step)
    with pytest.raises(Crash):
        await bed.drain(task, 7)
    again = await bed.up()
    check(bed, again)
    await bed.drain(again, 7)
    check(bed, again)
    (fact,) = facts(bed)
    assert (fact.version, fact.state) == (3, state)


async def test_snapshots_of_an_earlier_reign_are_not_taken() -> None:
    """A version that is back finds its own old snapshots, some beyond what was saved since: they are of no use."""
    bed = await began(lambda: [Chain(), Chain3(), Back()], interval_s=ALWAYS)
    task = await bed.up()
    bed.put(1, "gone")
    put(bed, 20)
    await bed.drain(task, 7)
    await decide(bed, "chain", 3, 1)
    put(bed, 20)
    await bed.drain(task, 7)
    await decide(bed, "chain", 4, 3, state="migrate")
    put(bed, 20)
    await bed.drain(task, 7)
    check(bed, task)
    names = [r.key for r in bed.log.records(CHANGELOG, 0)]
    assert names.count(STATE_PREFIX + b"chain\x00default/gone") == 3
    check(bed, await bed.up())


class Back(Chain):
    """Takes over whatever there was."""

    version = 4
    migrates: ClassVar[tuple[int, ...]] = (3,)

    def migrate(self, old: Any, version: int) -> Links:
        return Links(old.component, old.count * 2, old.digest)


async def test_a_switch_waits_for_no_record() -> None:
    """In a partition where nothing happens a version gets ready and takes over all the same."""
    bed = await began()
    task = await bed.up()
    put(bed, 5)
    await bed.drain(task)
    await decide(bed, "chain", 2, 1)
    await task.idle()
    assert [fact.version for fact in facts(bed)] == [2]
    written = len(bed.log.records(VERSIONS, 0))
    for _ in range(3):
        await task.idle()
    assert len(bed.log.records(VERSIONS, 0)) == written
    check(bed, task)


async def test_a_proposal_changes_nothing() -> None:
    """The worker says once that it is ready, and works on; given up, nothing is left of it."""
    bed = await began()
    task = await bed.up()
    put(bed, 20)
    await bed.drain(task, 5)
    record = e.FoldCutOver(
        fold="chain", cut_over_id="x", phase="proposed", from_version=1, to_version=2, by="test"
    )
    await bed.decisions.write(record, 0.0)
    for _ in range(3):
        put(bed, 10)
        await bed.drain(task, 5)
    decoded = [CODEC.decode(r.value) for r in bed.log.records(VERSIONS, 0)]
    assert [(type(d).__name__, getattr(d, "cut_over_id", "")) for d in decoded] == [("FoldReady", "x")]
    assert task._handover.level(), "it keeps level"
    await bed.decisions.write(record.model_copy(update={"phase": "cancelled"}), 0.0)
    put(bed, 10)
    await bed.drain(task, 5)
    assert not task._handover._candidates
    assert facts(bed) == []
    check(bed, task)


async def test_getting_ready_takes_turns_with_work() -> None:
    """A long history is folded in slices: batches are committed in between, and a nudge asks for the next slice."""
    bed = await began()
    bed.per_look = 0.002
    task = await bed.up()
    put(bed, 400)
    await bed.drain(task)
    nudges = 0

    def nudge() -> None:
        nonlocal nudges
        nudges += 1

    task._nudge = nudge
    await decide(bed, "chain", 2, 1)
    turns = 0
    while not facts(bed):
        turns += 1
        bed.put(1)
        await bed.drain(task)
    assert turns > 5
    assert nudges == turns - 1
    check(bed, task)


async def test_several_versions_that_get_ready_share_the_time() -> None:
    """However many folds of a topic are cut over at once, each turn takes no longer than for one."""
    bed = await began(lambda: [Chain(), Chain2(), Silence(), Silence2()])
    task = await bed.up()
    put(bed, 2_000)
    await bed.drain(task)
    await decide(bed, "chain", 2, 1)
    await decide(bed, "silence", 2, 1)
    bed.per_look = 0.01
    before = bed.elapsed
    await task.idle()
    chain, silence = (task._handover._candidates[name].engine.position for name in ("chain", "silence"))
    assert silence < chain
    assert bed.elapsed - before < 0.15
    for _ in range(400):
        await task.idle()
    assert sorted(fact.fold for fact in facts(bed)) == ["chain", "silence"]
    check(bed, task)


# --- timers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["refold", "migrate"])
async def test_wakes_across_a_switch(state: str) -> None:
    """Who waited when the version changed is woken by the new one: as it would have asked itself, or as was asked."""
    bed = await began(lambda: [Silence(), Silence2(), Chain()])
    task = await bed.up()
    for moment in range(8):
        if moment == 4:
            await decide(bed, "silence", 2, 1, state=state)
        put(bed, 3, 3)
        await bed.drain(task, 2)
        for _ in range(3):
            bed.log.now += 25.0
            await task.idle()
        check(bed, task)
    assert facts(bed)[0].clock > 0
    made = {v for d, v, _ in bed.found() if d == "silence"}
    assert len(made) > 2
    check(bed, await bed.up())


class Still(Silence):
    """Keeps no state, and so is told of no time."""

    state = None  # type: ignore[assignment]  # its successor has one

    def on_event(self, state: Watch, event: e.Event, at: float) -> Iterable[Output]:
        return ()


async def stood_still(bed: Partition) -> PartitionTask:
    """There were ticks, by a version with state; one without it is in force since, in a worker started anew."""
    task = await bed.up()
    put(bed, 4)
    await bed.drain(task)
    await decide(bed, "silence", 2, 1)
    await task.idle()
    put(bed, 3)
    await bed.drain(task)
    for _ in range(2):
        bed.log.now += 200.0
        await task.idle()
    assert bed.log.records(topics.ticks(SIGNALS), 0)
    await decide(bed, "silence", 1, 2)
    await task.idle()
    task = await bed.up()
    assert [fact.version for fact in facts(bed)] == [2, 1]
    return task


async def test_from_no_state_to_one_that_knows_of_time() -> None:
    """The version in force was never told of the ticks that its successor knows: both are level all the same."""
    bed = await began(lambda: [Still(), Silence2()])
    task, nudges = await stood_still(bed), list[None]()
    task._nudge = lambda: nudges.append(None)
    put(bed, 3)
    await bed.drain(task)
    await decide(bed, "silence", 2, 1)
    await task.idle()
    assert ([fact.version for fact in facts(bed)], nudges) == ([2, 1, 2], [])
    ticks = [CODEC.decode(r.value) for r in bed.log.records(topics.ticks(SIGNALS), 0)]
    assert facts(bed)[-1].clock == max(t.at for t in ticks if isinstance(t, e.Tick))
    for _ in range(3):
        put(bed, 2)
        await bed.drain(task)
        bed.log.now += 100.0
        await task.idle()
    expected = states(task.engine)
    assert states((await bed.up()).engine) == expected


async def test_ticks_that_are_gone() -> None:
    """What the version in force was told of and the log has no more keeps no version from getting ready."""
    bed = await began(lambda: [Silence(), Silence2()], interval_s=ALWAYS)
    task = await bed.up()
    put(bed, 4)
    await bed.drain(task)
    bed.log.now += 61.0
    await task.idle()
    bed.erase(topics.ticks(SIGNALS))
    await decide(bed, "silence", 2, 1)
    await task.idle()
    assert [fact.version for fact in facts(bed)] == [2]
    assert len(bed.log.records(topics.ticks(SIGNALS), 0)) == 0
    await task.idle()
    assert len(bed.log.records(topics.ticks(SIGNALS), 0)) == 1, "what is overdue comes at once"


async def test_a_log_that_is_away_is_not_asked_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again at the next turn that comes by itself."""
    bed = await began()
    task, nudges = await lived(bed), list[None]()
    task._nudge = lambda: nudges.append(None)

    read = bed.log.read

    def failing(topic: str, *about: Any) -> Any:
        if topic == SIGNALS:
            raise LogUnavailable("away")
        return read(topic, *about)

    with monkeypatch.context() as patched:
        patched.setattr(bed.log, "read", failing)
        await decide(bed, "chain", 2, 1)
        await task.idle()
        await task.idle()
    assert (nudges, facts(bed)) == ([], [])
    await task.idle()
    assert [fact.version for fact in facts(bed)] == [2]


async def test_a_tick_at_the_position_of_the_switch() -> None:
    """Ticks and a switch at one offset: what was before it was the old version's, after it the new one's."""
    bed = await began(lambda: [Silence(), Silence2()])
    task = await bed.up()
    put(bed, 4)
    await bed.drain(task)
    bed.log.now += 61.0
    await task.idle()
    await decide(bed, "silence", 2, 1)
    await task.idle()
    bed.log.now += 61.0
    await task.idle()
    await task.idle()
    ticks = [CODEC.decode(r.value) for r in bed.log.records(topics.ticks(SIGNALS), 0)]
    (fact,) = facts(bed)
    assert {t.after_offset for t in ticks if isinstance(t, e.Tick)} == {fact.position}
    check(bed, task)
    check(bed, await bed.up())


async def test_a_tick_while_a_version_gets_ready() -> None:
    """Time that the old version is told of reaches the new one, whether it is level by then or not."""
    bed = await began(lambda: [Silence(), Silence2()])
    task = await bed.up()
    put(bed, 1_000)
    await bed.drain(task)
    bed.per_look = 0.01
    await decide(bed, "silence", 2, 1)
    for _ in range(40):
        bed.log.now += 7.0
        bed.put(3, "c1")
        await bed.drain(task)
        await task.idle()
    assert len(facts(bed)) == 1
    assert facts(bed)[0].clock > 1_700_000_050
    check(bed, task)


async def test_getting_ready_beside_a_worker_that_was_replaced() -> None:
    """What its successor was told of later is not forgotten when the partition comes back to it."""
    bed = await began(lambda: [Silence(), Silence2()])
    replaced = await bed.up()
    put(bed, 4)
    await bed.drain(replaced)
    clock, stood = replaced._now, bed.log.now
    replaced._now = lambda: stood
    successor = await bed.up()
    put(bed, 4)
    await bed.drain(successor)
    bed.log.now += 61.0
    await successor.idle()
    assert bed.log.records(topics.ticks(SIGNALS), 0)
    proposed = e.FoldCutOver(
        fold="silence", cut_over_id="x", phase="proposed", from_version=1, to_version=2, by="test"
    )
    await bed.decisions.write(proposed, 0.0)
    with pytest.raises(Fenced):
        await replaced.idle()
    replaced._now = clock
    await replaced.assign()
    await bed.decisions.write(proposed.model_copy(update={"phase": "decided"}), 0.0)
    async with asyncio.timeout(10):
        await replaced.idle()
    assert len(facts(bed)) == 1
    check(bed, replaced)


# --- poison ------------------------------------------------------------------------------------


class Picky2(Chain):
    """Raises on other values than its predecessor."""

    version = 2

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        assert isinstance(event, e.Signal)
        state.count += 100
        if event.value == CURSED:
            raise KeyError("cursed")
        return super().on_event(state, event, at)


async def test_a_version_that_raises_on_history() -> None:
    """What the new version cannot take is a dead letter from the moment that it takes over, and no sooner."""
    bed = await began(lambda: [Chain(), Picky2()])
    task = await bed.up()
    for value in (20, CURSED, 30, UNLUCKY, 40):
        bed.put(value)
    await bed.drain(task, 2)
    assert [(x.fold, x.offset) for x in bed.letters()] == [("chain", 3)]
    cut_over = await decide(bed, "chain", 2, 1)
    bed.put(50)
    await bed.drain(task, 2)
    assert facts(bed)[0].cut_over_id == cut_over
    assert [(x.fold, x.offset) for x in bed.letters()] == [("chain", 3), ("chain", 1)]
    expected = states(task.engine)
    assert states((await bed.up()).engine) == expected
    bed.erase(CHANGELOG)
    assert states((await bed.up()).engine) == expected


class Broken2(Chain):
    """Raises on most of what there is, and counts how often it is asked."""

    version = 2

    def __init__(self) -> None:
        self.asked = 0

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        self.asked += 1
        if value_of(event) > 30:
            raise ValueError("too much")
        return ()


def not_ready(bed: Partition) -> list[str | None]:
    """What workers said of getting ready."""
    said = [CODEC.decode(r.value) for r in bed.log.records(VERSIONS, 0)]
    return [fact.error for fact in said if isinstance(fact, e.FoldReady)]


async def test_a_version_that_raises_over_and_over() -> None:
    """It is given up after ten records, in slices like any other; why is logged and recorded, and nobody is nudged."""
    broken, nudges = Broken2(), list[None]()
    bed = await began(lambda: [Chain(), broken])
    bed.per_look = 1.0
    task = await bed.up()
    task._handover._near = 10_000
    task._nudge = lambda: nudges.append(None)
    put(bed, 1_000)
    await bed.drain(task)
    with structlog.testing.capture_logs() as said:
        await decide(bed, "chain", 2, 1)
        await task.idle()
        assert broken.asked < 1_000, "after a poison a slice ends when its time is over"
        for _ in range(30):
            await task.idle()
    raised = [entry for entry in said if entry["event"] == "fold.candidate_raised"]
    assert len(raised) == 11
    assert (raised[0]["fold"], raised[0]["version"]) == ("chain", 2)
    assert "ValueError('too much') at offset" in raised[0]["why"]
    assert (len(nudges), facts(bed)) == (10, [])
    (why,) = not_ready(bed)
    assert why is not None
    assert why.startswith("it raises on more than 10 records, last: fold chain raised ValueError('too much')")
    asked = broken.asked
    put(bed, 20)
    await bed.drain(task)
    assert broken.asked == asked


class Remembering(Chain):
    """Succeeds one that keeps no state."""

    name = "echo"
    version = 2


async def test_what_a_successor_of_no_state_was_not_given() -> None:
    """What either raised on, and what nobody could read, is skipped after a restart, too: no second dead letter."""

    class Choosy(Echo):
        def on_event(self, state: None, event: e.Event, at: float) -> Iterable[Output]:
            if value_of(event) == CURSED:
                raise ValueError("cursed")
            return super().on_event(state, event, at)

    bed = await began(lambda: [Choosy(), Remembering()])
    task = await bed.up()
    put(bed, 3)
    for value in (UNLUCKY, CURSED):
        bed.put(value)
    bed.append(b"garbage")
    put(bed, 3)
    await bed.drain(task)
    await decide(bed, "echo", 2, 1)
    await task.idle()
    await task.idle()
    assert [fact.version for fact in facts(bed)] == [2]
    letters = sorted((x.fold or "", x.offset) for x in bed.letters())
    assert letters == [("", 5), ("echo", 3), ("echo", 4)]
    expected = states(task.engine)
    again = await bed.up()
    await again.idle()
    assert states(again.engine) == expected
    assert len(bed.letters()) == 3


async def test_poison_while_a_version_gets_ready() -> None:
    """The old version raises meanwhile: its task is rebuilt, and the new version does not get that record either."""
    bed = await began(lambda: [Chain(), Chain2()])
    task = await bed.up()
    put(bed, 100)
    await bed.drain(task)
    bed.per_look = 0.004
    await decide(bed, "chain", 2, 1)
    for value in (20, UNLUCKY, *range(30, 60)):
        bed.put(value)
        await bed.drain(task)
    assert [(x.fold, x.offset) for x in bed.letters()] == [("chain", bed.letters()[0].offset)]
    assert len(facts(bed)) == 1
    expected = states(task.engine)
    assert states((await bed.up()).engine) == expected


async def test_others_have_their_turn_while_states_are_migrated() -> None:
    """A thousand keys are not migrated in one go: a worker that does not beat is thrown out."""
    bed = await began(lambda: [Chain(), Chain3()])
    task = await bed.up()
    put(bed, 1_000, 1_000)
    await bed.drain(task)
    await decide(bed, "chain", 3, 1, state="migrate")
    turns, over = 0, asyncio.Event()

    async def beat() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    await task.idle()
    over.set()
    await beating
    assert [fact.state for fact in facts(bed)] == ["migrate"]
    assert turns > 30
    check(bed, task)


class Unable(Chain3):
    """Cannot make anything of a state that it says it can."""

    def migrate(self, old: Any, version: int) -> Any:
        if old.component == "c2":
            raise ValueError("no idea")
        return super().migrate(old, version)


async def test_a_state_that_cannot_be_migrated() -> None:
    """The switch folds the log anew instead, and says so in the log."""
    bed = await began(lambda: [Chain(), Unable()])
    with structlog.testing.capture_logs() as said:
        task = await lived(bed, ("chain", 1, 3, "migrate"))
    assert [(f.version, f.state) for f in facts(bed)] == [(3, "refold")]
    (warning,) = [entry for entry in said if entry["event"] == "fold.not_migrated"]
    assert "chain version 3 could not migrate default/c2: ValueError('no idea')" in warning["why"]
    check(bed, task)


# --- code that comes and goes --------------------------------------------------------------------


async def test_a_version_whose_code_is_gone() -> None:
    """The one that takes over folds the log anew; from where is recorded with the first thing that it does."""
    bed = await began(lambda: [Chain(), Learned()], interval_s=ALWAYS)
    task = await bed.up()
    put(bed, 20)
    await bed.drain(task, 7)
    bed.folds = lambda: [Chain2(), Learned()]
    await decide(bed, "chain", 2, 1, at_once=True)
    task = await bed.up()
    assert facts(bed) == []
    put(bed, 10)
    await bed.drain(task, 7)
    (fact,) = facts(bed)
    assert (fact.from_version, fact.version, fact.state) == (1, 2, "refold")
    assert fact.position == bed.log.records(SIGNALS, 0)[20].offset
    check(bed, task, both)
    check(bed, await bed.up(), both)
    assert len(facts(bed)) == 1


async def test_a_takeover_is_recorded_though_nothing_happens() -> None:
    """In a quiet partition it stands in the log within a second, not only with the next record."""
    bed = await began(lambda: [Chain()])
    put(bed, 5)
    await bed.drain(await bed.up())
    bed.folds = lambda: [Chain2()]
    await decide(bed, "chain", 2, 1, at_once=True)
    await (await bed.up()).idle()
    assert [fact.version for fact in facts(bed)] == [2]


async def test_at_once() -> None:
    """A running worker switches without getting ready: where it stands, with all of its log folded anew."""
    bed = await began()
    task = await lived(bed)
    await decide(bed, "chain", 2, 1, at_once=True)
    put(bed, 7)
    await bed.drain(task, 7)
    put(bed, 7)
    await bed.drain(task, 7)
    assert [(f.version, f.state) for f in facts(bed)] == [(2, "refold")]
    check(bed, task)


async def test_a_worker_that_lacks_the_version_goes_on() -> None:
    """An old installation keeps its partitions as they are, and says what it lacks, once."""
    bed = await began(lambda: [Chain()])
    task = await lived(bed)
    with structlog.testing.capture_logs() as said:
        await decide(bed, "chain", 2, 1)
        put(bed, 20)
        await bed.drain(task, 5)
    assert facts(bed) == []
    warnings = [x for x in said if x["event"] == "fold.version_not_installed"]
    assert [(x["version"], x["installed"]) for x in warnings] == [(2, [1])]
    bed.folds = both
    newer = await bed.up()
    await newer.idle()
    assert [fact.version for fact in facts(bed)] == [2]


async def test_a_worker_that_lacks_the_version_in_force_does_not_start() -> None:
    """What one version has taken over an older installation does not touch; it says what to do, once and for all."""
    bed = await began()
    await lived(bed, ("chain", 1, 2, "refold"))
    before = {topic: bed.log.records(topic, 0) for topic in bed.log.partitions}
    bed.folds = lambda: [Chain(), Learned()]
    with pytest.raises(VersionNotInstalled, match="version 2 is in force, installed here: 1") as refused:
        await bed.up()
    assert not refused.value.retriable
    assert {topic: bed.log.records(topic, 0) for topic in bed.log.partitions} == before


async def test_a_downgrade_by_decision() -> None:
    """Put in force first, the older version takes over from one whose code is gone."""
    bed = await began()
    await lived(bed, ("chain", 1, 2, "refold"))
    bed.folds = lambda: [Chain(), Learned()]
    await decide(bed, "chain", 1, 2)
    task = await bed.up()
    put(bed, 10)
    await bed.drain(task, 3)
    assert [fact.version for fact in facts(bed)] == [2, 1]
    check(bed, task, both)


async def test_a_migrated_state_whose_maker_is_gone() -> None:
    """With snapshots the state is still what it was; without them the version folds anew, and records that."""
    bed = await began(lambda: [Chain(), Chain3()], interval_s=ALWAYS)
    await lived(bed, ("chain", 1, 3, "migrate"))
    bed.folds = lambda: [Chain3()]
    task = await bed.up()
    check(bed, task, lambda: [Chain(), Chain3()])
    assert len(facts(bed)) == 1
    bed.erase(CHANGELOG)
    with structlog.testing.capture_logs() as said:
        task = await bed.up()
    assert [x["state"] for x in said if x["event"] == "fold.taken_over"] == ["refold"]
    put(bed, 10)
    await bed.drain(task, 3)
    assert [(f.from_version, f.version, f.state) for f in facts(bed)] == [(1, 3, "migrate"), (3, 3, "refold")]
    check(bed, task, lambda: [Chain(), Chain3()])
    check(bed, await bed.up(), lambda: [Chain(), Chain3()])
    assert len(facts(bed)) == 2


async def test_folds_without_state_change_too() -> None:
    """One that keeps none switches between two batches; to one that keeps some, and back."""

    class Echo3(Chain):
        name = "echo"
        version = 3

    bed = await began(lambda: [Echo(), Echo2(), Echo3(), Learned()], interval_s=ALWAYS)
    task = await lived(bed, ("echo", 1, 2, "refold"), ("echo", 2, 3, "refold"), ("echo", 3, 1, "refold"))
    assert [fact.version for fact in facts(bed)] == [2, 3, 1]
    check(bed, task)
    check(bed, await bed.up())


class Patient(Silence):
    """Keeps no state any more, and so asks for nothing."""

    version = 3
    state = None  # type: ignore[assignment]  # a successor may do without

    def on_event(self, state: Watch, event: e.Event, at: float) -> Iterable[Output]:
        return ()


async def test_wakes_end_with_the_state() -> None:
    """Nobody is woken on behalf of a version that is no longer in force."""
    bed = await began(lambda: [Silence(), Patient(), Chain()])
    task = await bed.up()
    put(bed, 4)
    await bed.drain(task)
    await decide(bed, "silence", 3, 1)
    await task.idle()
    bed.log.now += 100
    await task.idle()
    assert [d for d, _, _ in bed.found() if d == "silence"] == []


# --- positions and faults ------------------------------------------------------------------------


async def test_a_position_set_back_before_the_switch() -> None:
    """The group's position was set back on purpose: the switch is void, and made again where the worker is then."""
    bed = await began()
    await lived(bed, ("chain", 1, 2, "refold"))
    (fact,) = facts(bed)
    bed.log.positions[SIGNALS, 0] = fact.position - 8
    task = await bed.up()
    assert [slot.fold.version for slot in task.slots] == [1, 1]
    await bed.drain(task, 3)
    assert [f.version for f in facts(bed)] == [2, 2]
    assert facts(bed)[1].position < fact.position
    expected = states(task.engine)
    assert states((await bed.up()).engine) == expected


async def test_a_log_that_is_away_while_a_version_gets_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work goes on, and so does getting ready when the log answers again."""
    bed = await began()
    task = await lived(bed)
    read, failures = bed.log.read, 2

    def failing(topic: str, partition: int, start: int, end: int) -> Any:
        nonlocal failures
        if topic == SIGNALS and failures:
            failures -= 1
            raise LogUnavailable("away")
        return read(topic, partition, start, end)

    monkeypatch.setattr(bed.log, "read", failing)
    await decide(bed, "chain", 2, 1)
    for _ in range(4):
        put(bed, 5)
        await bed.drain(task)
    assert failures == 0
    assert [f.version for f in facts(bed)] == [2]
    check(bed, task)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_log_whose_start_moves(begun: bool) -> None:
    """A version folds what there is when it reads; where that leaves a gap it begins anew, as a restore would."""
    bed = await began(lambda: [Chain(), Chain2()])
    task = await bed.up()
    put(bed, 300)
    await bed.drain(task)
    if begun:
        bed.per_look = 0.1
        await decide(bed, "chain", 2, 1)
        await task.idle()
        await task._handover.close()
        assert 0 < task._handover._candidates["chain"].engine.position < 250
    bed.log.firsts[SIGNALS, 0] = 250
    if not begun:
        await decide(bed, "chain", 2, 1)
    for _ in range(20):
        await task.idle()
    assert [fact.version for fact in facts(bed)] == [2]
    slot = next(slot for slot in task.slots if slot.fold.name == "chain")
    assert sum(state.count for state in slot.unpacked().values()) == 50
    expected = states(task.engine)
    assert states((await bed.up()).engine) == expected


async def test_what_got_ready_outlives_a_fault() -> None:
    """A fault of a transaction throws the state away, and not what the other version has folded so far."""
    bed = await began()
    task = await bed.up()
    put(bed, 2_000)
    await bed.drain(task)
    bed.per_look = 0.06
    await decide(bed, "chain", 2, 1)
    await task.idle()
    (candidate,) = task._handover._candidates.values()
    reached = candidate.engine.position
    bed.crash("commit.sent", LogUnavailable("a fault"))
    put(bed, 1)
    with pytest.raises(LogUnavailable):
        await bed.drain(task)
    await task.assign()
    assert task._handover._candidates["chain"] is candidate
    assert candidate.engine.position == reached > 0
    while not facts(bed):
        await task.idle()
    check(bed, task)
