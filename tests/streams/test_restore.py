"""Restores: whatever became of the snapshots, the state is that of an undisturbed run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest
import structlog

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics
from schemas.codec import Codec, Record
from schemas.errors import RegistryUnavailable
from streams.folding import snapshots
from streams.folding.engine import Engine
from streams.folding.rounds import MARKER_KEY, SKIP_PREFIX, STATE_PREFIX
from streams.partitions.log import Send
from streams.simulation import Crash
from tests.streams.folds import CURSED, UNLUCKY, Chain, Echo, Learned, Links, Silence
from tests.streams.harness import ALWAYS, CHANGELOG, CODEC, NEVER, SIGNALS, TICKS, Partition, states


class Counted(Chain):
    """Chain, and how often it was called since `calls` was last set."""

    calls = 0

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        Counted.calls += 1
        return super().on_event(state, event, at)


class Newer(Chain):
    """Chain's next version: it computes something else."""

    version = 2

    def on_event(self, state: Links, event: e.Event, at: float) -> Iterable[Output]:
        state.digest += 1_000_000
        return super().on_event(state, event, at)


def both() -> list[Fold[Any]]:
    """Order and models."""
    return [Chain(), Learned()]


async def history(
    folds: Callable[[], Iterable[Fold[Any]]] = both, *, interval_s: float = ALWAYS, count: int = 40
) -> Partition:
    """A partition of which `count` records were folded, in batches of 7, by a worker that is gone."""
    bed = Partition(folds, interval_s=interval_s)
    for i in range(count):
        bed.put(20 + i, f"c{i % 4}")
    await bed.drain(await bed.up(), 7)
    return bed


async def forge(bed: Partition, is_forged: Callable[[bytes], bool]) -> None:
    """Change a byte in each matching value of the changelog."""
    for record in bed.log.records(CHANGELOG, 0):
        assert record.key is not None
        assert record.value is not None
        if is_forged(record.key):
            bed.log.append(CHANGELOG, record.key, record.value[:-1] + bytes([record.value[-1] ^ 1]), (), 0)


async def nothing(bed: Partition) -> None:
    """Leave it as it is."""


async def lost(bed: Partition) -> None:
    """The changelog is gone."""
    bed.erase(CHANGELOG)


async def marker_missing(bed: Partition) -> None:
    """The marker was deleted."""
    bed.log.append(CHANGELOG, MARKER_KEY, None, (), 0)


async def marker_forged(bed: Partition) -> None:
    """The marker's signature is wrong."""
    await forge(bed, lambda key: key == MARKER_KEY)


async def one_forged(bed: Partition) -> None:
    """One snapshot's signature is wrong."""
    await forge(bed, lambda key: key == STATE_PREFIX + b"learned\x00default/c1")


async def moved(bed: Partition) -> None:
    """A snapshot was copied over that of another key."""
    values = {r.key: r.value for r in bed.log.records(CHANGELOG, 0)}
    name = STATE_PREFIX + b"chain\x00default/c"
    bed.log.append(CHANGELOG, name + b"1", values[name + b"2"], (), 0)


async def other_secret(bed: Partition) -> None:
    """The key that signs was changed."""
    bed.secret = b"another"


DAMAGE = [nothing, lost, marker_missing, marker_forged, one_forged, moved, other_secret]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
async def test_whatever_became_of_the_snapshots(damage: Any) -> None:
    """State is that of a worker that never stopped, nothing is written twice, and what follows is the same."""
    undisturbed = await history(interval_s=NEVER)
    survivor = await undisturbed.up()
    bed = await history()
    before = bed.outputs()
    await damage(bed)
    task = await bed.up()
    assert task.restored_events == (0 if damage is nothing else 40)
    assert states(task.engine)["chain", "default/c1"] == states(survivor.engine)["chain", "default/c1"]
    assert bed.outputs() == before == undisturbed.outputs()
    for one, worker in ((bed, task), (undisturbed, survivor)):
        for i in range(20):
            one.put(30 + i, f"c{i % 4}")
        await one.drain(worker)
    assert bed.outputs() == undisturbed.outputs()


def spoil(bed: Partition, fold: bytes) -> None:
    """Sign anew, with a state that no class has, all but the first of a fold's snapshots."""
    sealer = snapshots.Sealer(bed.secret, "folds/signals/0")
    values = {r.key: r.value for r in bed.log.records(CHANGELOG, 0)}
    names = sorted(k for k in values if k is not None and k.startswith(STATE_PREFIX + fold + b"\x00"))
    assert len(names) > 1
    for name in names[1:]:
        snapshot = sealer.open(snapshots.Snapshot, name, values[name] or b"")
        broken = msgspec.structs.replace(snapshot, state=b"\xc1")
        bed.log.append(CHANGELOG, name, sealer.seal(name, broken), (), 0)


async def test_states_are_loaded_when_they_are_needed() -> None:
    """After a restore only the keys that have events since are loaded, and all are counted and saved."""
    bed = await history(lambda: [Chain()])
    task = await bed.up()
    (slot,) = task.slots
    assert (slot.keys, len(slot.states)) == (4, 0)
    bed.put(1, "c2")
    await bed.drain(task)
    assert (slot.keys, list(slot.states)) == (4, ["default/c2"])
    expected = states(task.engine)
    assert states((await bed.up()).engine) == expected


async def test_a_state_that_cannot_be_loaded_is_folded_anew() -> None:
    """It shows at the key's first event: then the fold's states come from the log, and are saved again."""
    undisturbed, bed = await history(interval_s=NEVER), await history()
    spoil(bed, b"learned")
    spoil(bed, b"chain")
    task, survivor = await bed.up(), await undisturbed.up()
    assert task.restored_events == 0
    for one, worker in ((bed, task), (undisturbed, survivor)):
        for i in range(20):
            one.put(30 + i, f"c{i % 4}")
        await one.drain(worker, 7)
    assert task.restored_events >= 40
    assert bed.outputs() == undisturbed.outputs()
    assert states(task.engine)["chain", "default/c1"] == states(survivor.engine)["chain", "default/c1"]
    assert (await bed.up()).restored_events == 0
    assert bed.letters() == []


async def test_a_wake_for_a_state_that_cannot_be_loaded() -> None:
    """The fold is folded anew, and the next tick wakes the key."""

    async def run(*, broken: bool) -> Partition:
        bed = Partition(lambda: [Silence()], interval_s=ALWAYS)
        for i in range(8):
            bed.put(20 + i, f"c{i % 4}")
        await bed.drain(await bed.up(), 1)
        if broken:
            spoil(bed, b"silence")
        task = await bed.up()
        bed.log.now += 90.0
        await task.idle()
        await task.idle()
        return bed

    disturbed, undisturbed = await run(broken=True), await run(broken=False)
    assert len(undisturbed.outputs()) == 4
    assert disturbed.outputs() == undisturbed.outputs()


async def test_another_river_version_refolds_only_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update of river its models are folded anew; folds without models keep their snapshots."""
    bed = await history(lambda: [Counted(), Learned()])
    expected = states((await bed.up()).engine)
    monkeypatch.setattr(snapshots, "RIVER", "99.0")
    Counted.calls = 0
    task = await bed.up()
    assert task.restored_events == 40
    assert Counted.calls == 0
    assert states(task.engine).keys() == expected.keys()
    assert states(task.engine)["chain", "default/c0"] == expected["chain", "default/c0"]


async def test_a_restore_folds_only_what_follows_the_marker() -> None:
    """What the last marker covers is not folded again, and what follows it is, once."""
    bed = await history(lambda: [Counted()], interval_s=ALWAYS, count=35)
    bed.interval_s = NEVER
    task = await bed.up()
    for i in range(5):
        bed.put(i, "c0")
    await bed.drain(task)
    Counted.calls = 0
    assert (await bed.up()).restored_events == Counted.calls == 5


async def test_records_that_change_nothing_are_left_behind_too() -> None:
    """Where no fold accepts what comes, the marker moves all the same: else restores would grow for ever."""
    bed = await history(count=7)
    for _ in range(30):
        bed.append(b"not an event")
    await bed.drain(await bed.up(), 10)
    assert (await bed.up()).restored_events == 0


async def test_keys_saved_beyond_the_marker() -> None:
    """A round that crashed midway leaves keys saved at several positions: each goes on from its own."""
    bed = Partition(lambda: [Counted(), Silence()], interval_s=ALWAYS)
    bed.per_look = 0.0004
    for i in range(60):
        bed.put(20 + i, f"c{i % 12}")
    task = await bed.up()
    await bed.drain(task, 5)
    names = [r.key for r in bed.log.records(CHANGELOG, 0)]
    assert 1 <= names.count(MARKER_KEY) < 6, "rounds are spread over batches"
    assert names[-1] != MARKER_KEY, "the last one is open"
    expected = states(task.engine)
    Counted.calls = 0
    restored = await bed.up()
    assert states(restored.engine) == expected
    assert 0 < Counted.calls < restored.restored_events


async def test_a_new_fold_learns_the_whole_history() -> None:
    """A fold added to a topic folds it from its start, in silence; the others keep what they have."""
    bed = await history(lambda: [Counted()])
    undisturbed = await history(lambda: [Counted(), Learned()], interval_s=NEVER)
    before, Counted.calls = bed.outputs(), 0
    bed.folds = lambda: [Counted(), Learned()]
    task, survivor = await bed.up(), await undisturbed.up()
    assert Counted.calls == 40, "in the undisturbed one alone"
    assert bed.outputs() == before
    assert states(task.engine).keys() == states(survivor.engine).keys()
    for one, worker in ((bed, task), (undisturbed, survivor)):
        one.put(44, "c1")
        await one.drain(worker)
    assert bed.outputs()[len(before) :] == undisturbed.outputs()[-len(bed.outputs()) + len(before) :]


async def test_a_fold_that_was_away_for_a_while() -> None:
    """A fold removed and added again has folded what came meanwhile, too."""
    bed = await history()
    bed.folds = lambda: [Learned()]
    task = await bed.up()
    for i in range(10):
        bed.put(50 + i, "c1")
    await bed.drain(task, 5)
    bed.folds = both
    undisturbed = Partition(lambda: [Chain()])
    for i in range(40):
        undisturbed.put(20 + i, f"c{i % 4}")
    for i in range(10):
        undisturbed.put(50 + i, "c1")
    survivor = await undisturbed.up()
    await undisturbed.drain(survivor)
    chains = {k: v for k, v in states((await bed.up()).engine).items() if k[0] == "chain"}
    assert chains == states(survivor.engine)


async def test_another_version_folds_anew() -> None:
    """A fold's new version takes nothing from the old one's snapshots."""
    bed = await history(lambda: [Chain()])
    fresh = await history(lambda: [Newer()], interval_s=NEVER)
    bed.folds = lambda: [Newer()]
    assert states((await bed.up()).engine) == states((await fresh.up()).engine)


async def test_a_version_taken_back_halfway_through_a_round() -> None:
    """A newer version saved some keys, no marker, and the older one is back: none of its keys is lost."""
    bed = await history(lambda: [Chain()])
    expected = states((await bed.up()).engine)
    bed.folds = lambda: [Newer()]
    bed.per_look = 0.0015
    newer = await bed.up()
    await newer.idle()
    assert newer._rounds is not None
    assert newer._rounds.open, "only a part of it is saved"
    bed.folds = lambda: [Chain()]
    assert states((await bed.up()).engine) == expected


async def test_recorded_ticks_are_folded_where_they_were() -> None:
    """Without snapshots, the log and its ticks give byte for byte the state, and the outputs that are there."""
    bed = Partition(lambda: [Chain(), Silence()], interval_s=NEVER)
    task = await bed.up()
    for round_ in range(6):
        for i in range(8):
            bed.put(20 + i, f"c{i % (1 + round_ % 3)}")
        await bed.drain(task, 3)
        for _ in range(2):
            bed.log.now += 47.0
            await task.idle()
    assert sum(detector == "silence" for detector, _, _ in bed.found()) > 3
    expected, clocks = states(task.engine), task.engine and task.engine.clocks
    bed.erase(CHANGELOG)
    again = await bed.up()
    assert states(again.engine) == expected
    assert again.engine is not None
    assert again.engine.clocks == clocks
    assert sorted(as_bytes(s) for s in folded_anew(bed)) == sorted(bed.outputs())


def as_bytes(send: Send) -> Any:
    """As a reader sees it."""
    return send.key, send.value, tuple(send.headers)


def folded_anew(bed: Partition) -> list[Send]:
    """What a plain engine gives for the log from its start, with its ticks."""
    engine = Engine(topics.SIGNALS, 0, bed.folds(), CODEC)
    ticks = [CODEC.decode(r.value) for r in bed.log.records(TICKS, 0)]
    out: list[Send] = []
    for record in bed.log.records(SIGNALS, 0):
        while ticks and ticks[0].after_offset <= record.offset:  # type: ignore[attr-defined]
            out += engine.tick(ticks.pop(0).at)  # type: ignore[attr-defined]
        out += engine.process([record])
    for tick in ticks:
        out += engine.tick(tick.at)  # type: ignore[attr-defined]
    return out


async def test_a_restore_between_ticks() -> None:
    """A worker that takes over after any tick or batch wakes whom its predecessor would have woken."""

    async def run(*, takeovers: bool) -> Partition:
        bed = Partition(lambda: [Chain(), Silence()], interval_s=2.0)
        task = await bed.up()
        for round_ in range(8):
            for i in range(3):
                bed.put(20 + i, f"c{(i * round_) % 4}")
            await bed.drain(task, 2)
            for _ in range(3):
                task = await bed.up() if takeovers else task
                bed.log.now += 31.0
                bed.elapsed += 1.0
                await task.idle()
                task = await bed.up() if takeovers else task
        return bed

    disturbed, undisturbed = await run(takeovers=True), await run(takeovers=False)
    assert disturbed.outputs() == undisturbed.outputs()
    assert states((await disturbed.up()).engine) == states((await undisturbed.up()).engine)


async def test_a_new_fold_beside_one_that_waits() -> None:
    """While a new fold is told the history, with its ticks, the wakes of the others stay where they are."""

    async def run(added: list[Fold[Any]]) -> Partition:
        bed = Partition(lambda: [Silence()], interval_s=ALWAYS)
        task = await bed.up()
        for round_ in range(6):
            if round_ == 3 and added:
                bed.folds = lambda: [Silence(), *added]
                task = await bed.up()
                assert task.restored_events > 0
            for i in range(4):
                bed.put(20 + i, f"c{(i * round_) % 3}")
                bed.put(
                    20 + i, f"d{i % 2}", project="old", clock="replay", time=1e9 + 45.0 * (round_ * 4 + i % 3)
                )
            await bed.drain(task, 3)
            for _ in range(2):
                bed.log.now += 45.0
                await task.idle()
        return bed

    def silences(bed: Partition) -> list[Any]:
        return [o for o in bed.outputs() if b"silence" in (o[1] or b"")]

    alone, joined = await run([]), await run([Chain(), Learned()])
    assert len(silences(alone)) > 10
    assert silences(joined) == silences(alone)
    kept = {k: v for k, v in states((await joined.up()).engine).items() if k[0] == "silence"}
    assert kept == states((await alone.up()).engine)


@pytest.mark.parametrize("interval_s", [ALWAYS, NEVER])
async def test_a_replayed_clock_outlives_the_worker(interval_s: float) -> None:
    """What comes late after a restart is as late as it would have been: the clock does not go back."""

    async def run(*, takeovers: bool) -> Partition:
        bed = Partition(lambda: [Silence()], interval_s=interval_s)
        task = await bed.up()
        for time, component in [
            (1000, "a"),
            (5000, "b"),
            (1500, "a"),
            (5001, "b"),
            (1600, "c"),
            (5003, "b"),
            (9000, "b"),
        ]:
            bed.put(1, component, project="old", clock="replay", time=float(time))
            await bed.drain(task)
            task = await bed.up() if takeovers else task
        return bed

    disturbed, undisturbed = await run(takeovers=True), await run(takeovers=False)
    assert len(undisturbed.outputs()) > 4
    assert disturbed.outputs() == undisturbed.outputs()
    assert states((await disturbed.up()).engine) == states((await undisturbed.up()).engine)


async def test_a_skip_outlives_the_worker() -> None:
    """A poison record stays skipped and is reported once, with snapshots or without a marker."""
    bed = Partition(both)
    for value in (20, UNLUCKY, 21):
        bed.put(value)
    await bed.drain(await bed.up())
    assert [(x.fold, x.offset) for x in bed.letters()] == [("chain", 1)]
    await marker_missing(bed)
    task = await bed.up()
    await task.idle()
    assert len(bed.letters()) == 1
    assert task.engine is not None
    assert task.engine.slots[0].states["default/c"].count == 2


async def test_a_skip_that_got_lost_is_found_again() -> None:
    """Without its skip a record is poison once more: a letter with the id of the first, and no change of state.

    What no fold could read is not reported again: it had no part in the state.
    """
    bed = Partition(lambda: [Chain()])
    for value in (20, UNLUCKY, 21):
        bed.put(value)
    bed.append(b"not an event")
    await bed.drain(await bed.up())
    bed.erase(CHANGELOG)
    task = await bed.up()
    await task.idle()
    letters = bed.log.records(topics.DEAD_LETTERS.name, 0)
    assert [(x.fold, x.offset) for x in bed.letters()] == [("chain", 1), (None, 3), ("chain", 1)]
    assert dict(letters[0].headers)["ce_id"] == dict(letters[2].headers)["ce_id"]
    assert task.engine is not None
    assert task.engine.slots[0].states["default/c"].count == 2
    assert any((r.key or b"").startswith(SKIP_PREFIX) for r in bed.log.records(CHANGELOG, 0))


async def test_a_cursed_wake_outlives_the_worker() -> None:
    """The wake on which a fold raised is not given again after a restore, and the key is woken later as before."""
    bed = Partition(lambda: [Silence()])
    bed.put(CURSED)
    task = await bed.up()
    await bed.drain(task)
    bed.log.now += 60
    await task.idle()
    await task.idle()
    assert [(x.fold, x.key, x.topic) for x in bed.letters()] == [("silence", b"default/c", TICKS)]
    task = await bed.up()
    bed.put(1)
    await bed.drain(task)
    bed.log.now += 60
    await task.idle()
    assert bed.found() == [("silence", 1, bed.log.now)]
    assert len(bed.letters()) == 1


async def test_folds_without_state_are_not_restored() -> None:
    """A restore does not call a fold that keeps no state: what it would raise today, it has long answered."""

    class Stricter(Echo):
        def on_event(self, state: None, event: e.Event, at: float) -> Iterable[Output]:
            raise AssertionError("not again")

    bed = await history(lambda: [Chain(), Echo()], interval_s=NEVER)
    bed.folds = lambda: [Chain(), Stricter()]
    task = await bed.up()
    bed.append(b"not an event")
    await bed.drain(task)
    assert [letter.fold for letter in bed.letters()] == [None]


@pytest.mark.parametrize("folds", [lambda: [Chain(), Echo()], lambda: [Echo()]], ids=["state", "no state"])
async def test_duplicates_across_a_restart(folds: Any) -> None:
    """An event that stood there before the worker came is a duplicate to it, whether its folds keep state or not."""
    bed = Partition(folds, interval_s=ALWAYS)
    bed.put(1, id="a")
    await bed.drain(await bed.up())
    bed.put(1, id="a")
    bed.put(2, id="b")
    await bed.drain(await bed.up())
    assert [value for detector, value, _ in bed.found() if detector == "echo"] == [1, 2]


async def test_a_position_set_back_is_folded_again() -> None:
    """Set back on purpose, the group folds from there: snapshots of its future are not taken, ids are the same."""
    bed = await history(lambda: [Chain(), Silence()])
    expected, before = states((await bed.up()).engine), bed.outputs()
    bed.log.positions[SIGNALS, 0] = 10
    task = await bed.up()
    assert task.restored_events == 10
    await bed.drain(task, 7)
    assert states(task.engine) == expected
    again = bed.outputs()[len(before) :]
    assert again
    assert again == before[-len(again) :]


async def test_long_restores_let_the_loop_breathe() -> None:
    """While thousands of snapshots are loaded other tasks have their turn, or the group would lose the worker."""
    bed = Partition(lambda: [Chain()], interval_s=ALWAYS)
    for i in range(2000):
        bed.put(1, f"c{i}")
    await bed.drain(await bed.up(), 500)
    turns = 0

    async def beat() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    await bed.up()
    beating.cancel()
    assert turns >= 2000 / 64


async def test_a_crash_in_a_restore() -> None:
    """A worker that dies while it restores has changed nothing."""
    bed = await history()
    before = {topic: bed.log.records(topic, 0) for topic in bed.log.partitions}
    for step in ("assign.begin", "assign.fenced", "restore.loaded", "restore.folded", "assign.ready"):
        bed.crash(step)
        with pytest.raises(Crash):
            await bed.up()
    assert {topic: bed.log.records(topic, 0) for topic in bed.log.partitions} == before


class Away(Codec):
    """Would ask a registry about an id that it does not know, and the registry is away."""

    async def learn(self, records: Sequence[Record]) -> None:
        """See Codec."""
        if any(r.value is not None and not self.knows(int.from_bytes(r.value[1:5])) for r in records):
            raise RegistryUnavailable("the registry is away")


async def test_what_was_undecodable_is_not_asked_for_again() -> None:
    """A record of an unknown schema became a dead letter: a restore needs nobody's word for it; a new one does."""
    bed = Partition(lambda: [Chain()])
    bed.put(1.0)
    bed.append(b"\x00\x7f\xff\xff\xffjunk")
    bed.put(2.0)
    first = await bed.up()
    await bed.drain(first)
    assert len(bed.letters()) == 1
    second = bed.task()
    second._codec = Away()
    await second.assign()
    assert states(second.engine) == states(first.engine)
    bed.append(b"\x00\x7f\xff\xff\xffjunk")
    with pytest.raises(RegistryUnavailable):
        await bed.drain(second)
    assert len(bed.letters()) == 1
    third = await bed.up()
    await bed.drain(third)
    assert len(bed.letters()) == 2


async def test_a_fold_that_is_not_here_any_more_is_said() -> None:
    """A worker without a package's fold takes the partition over, goes on with the others, and says so."""
    bed = await history()
    bed.folds = lambda: [Chain()]
    with structlog.testing.capture_logs() as said:
        task = await bed.up()
    assert [(line["event"], line["fold"]) for line in said] == [("restore.fold_absent", "learned")]
    assert states(task.engine).keys() == {("chain", f"default/c{i}") for i in range(4)}
