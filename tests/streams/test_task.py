"""One partition's task: whatever fails, at whatever step, a batch happened once or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from processors.fold import Fold, Output
from schemas import events as e
from schemas import topics
from schemas.errors import OffsetOutOfRange
from streams.partitions.log import Fenced, LogUnavailable
from streams.partitions.memory_log import MemoryLog
from streams.simulation import Crash
from tests.streams.folds import CURSED, TOO_LOUD, UNLUCKY, Chain, Echo, Loud, Silence, value_of
from tests.streams.harness import ALWAYS, CHANGELOG, NEVER, SIGNALS, TICKS, Partition, states

STEPS = [
    "assign.begin",
    "assign.fenced",
    "restore.loaded",
    "restore.folded",
    "assign.ready",
    "batch.folded",
    "batch.snapshot",
    "commit.begun",
    "commit.half_sent",
    "commit.sent",
    "commit.offsets",
    "commit.done",
    "batch.committed",
    "tick.folded",
]


def folds() -> list[Fold[Any]]:
    """Order, wakes and no state."""
    return [Chain(), Silence(), Echo()]


async def life(bed: Partition, *, crash: str = "", error: Any = None, at: int = 0) -> bool:
    """Two rounds of records (poison among them) and silence; whether `crash`, armed at turn `at`, came about.

    A dead worker is replaced, one whose log failed assigns anew, as `streams.partitions.worker` does.
    """
    task, turn = bed.task(), 0
    for _ in range(2):
        for i, value in enumerate([20, 30, UNLUCKY, 40, CURSED, 50]):
            bed.put(value, f"c{i % 2}")
        waits = [0.0, 0.0, 61.0, 0.0, 0.0, 61.0]
        while waits:
            turn += 1
            if turn == at:
                bed.crash(crash, error)
            try:
                if task.engine is None:
                    await task.assign()
                if records := bed.log.records(SIGNALS, 0, task.position)[:2]:
                    await task.handle(records)
                    continue
                bed.log.now, waits[-1] = bed.log.now + waits[-1], 0.0
                await task.idle()
                waits.pop()
            except Crash:
                task = bed.task()
            except LogUnavailable:
                await task.discard()
    reached, bed.crash_at = bed.crash_at is None, None
    return reached


@pytest.mark.parametrize("error", [Crash(), LogUnavailable("the log is away")], ids=["crash", "fault"])
@pytest.mark.parametrize("step", STEPS)
async def test_trouble_at_every_step(step: str, error: BaseException) -> None:
    """A death or a fault at any step, early or late, leaves outputs, letters and state as if it had not been."""
    expected = Partition(folds, interval_s=ALWAYS)
    await life(expected)
    assert len(expected.letters()) == 4
    end = states((await expected.up()).engine)
    hits = 0
    for at in range(1, 18, 3):
        bed = Partition(folds, interval_s=ALWAYS)
        hits += await life(bed, crash=step, error=error, at=at)
        assert bed.outputs() == expected.outputs()
        assert bed.letters() == expected.letters()
        assert states((await bed.up()).engine) == end
    assert hits >= 3, "the step was reached"


async def test_a_zombie_writes_nothing() -> None:
    """Who was replaced and goes on is fenced at its next commit, and its outputs are not seen."""
    bed = Partition(folds)
    for i in range(10):
        bed.put(20 + i)
    zombie = await bed.up()
    successor = await bed.up()
    with pytest.raises(Fenced):
        await bed.drain(zombie)
    assert bed.outputs() == []
    await bed.drain(successor)
    assert [d for d, _, _ in bed.found()].count("echo") == 10


async def test_state_that_still_stands_is_kept() -> None:
    """A task whose partition comes back unmoved goes on with its state, without a restore."""
    bed = Partition(folds)
    bed.put(20)
    task = await bed.up()
    await bed.drain(task)
    engine, bed.steps["restore.loaded"] = task.engine, 0
    await task.assign()
    assert task.engine is engine
    assert bed.steps["restore.loaded"] == 0
    bed.put(21)
    await bed.drain(task)
    assert [d for d, _, _ in bed.found()].count("echo") == 2


async def test_a_position_that_shows_late() -> None:
    """Kafka answers with the former position for a moment: a kept task must not fold its last batch again."""
    bed = Partition(folds)
    bed.put(20)
    task = await bed.up()
    await bed.drain(task)
    bed.put(21)
    await bed.drain(task)
    bed.log.prompt = False
    await task.assign()
    await bed.drain(task)
    assert [v for d, v, _ in bed.found() if d == "echo"] == [20, 21]


async def test_a_partition_that_comes_back_moved() -> None:
    """A task whose partition another has moved since takes over properly: its next batch is not fenced."""
    bed = Partition(folds)
    bed.put(20)
    task = await bed.up()
    await bed.drain(task)
    bed.put(21)
    await bed.drain(await bed.up())
    await task.assign()
    bed.put(22)
    await bed.drain(task)
    assert [v for d, v, _ in bed.found() if d == "echo"] == [20, 21, 22]


async def test_a_partition_that_comes_back_ticked() -> None:
    """Another has moved time, but no record, since: what this one still believes is never written."""
    bed = Partition(lambda: [Silence()])
    bed.put(20)
    task = await bed.up()
    await bed.drain(task)
    bed.log.now += 60
    await (await bed.up()).idle()
    await task.assign()
    with pytest.raises(Fenced):
        await task.idle()
    await task.assign()
    await task.idle()
    assert len(bed.found()) == 1


async def test_a_poison_record_does_not_hold_up_the_rest() -> None:
    """The folds that can take a record do, the one that cannot gets a dead letter, and all go on."""
    bed = Partition(lambda: [Chain(), Loud(), Echo()])
    for value in (20, UNLUCKY, TOO_LOUD, 30):
        bed.put(value)
    bed.append(b"\x00\x00\x00\x00\x00", key=b"\xff")
    bed.put(40)
    task = await bed.up()
    await bed.drain(task)
    assert [v for d, v, _ in bed.found() if d == "echo"] == [20, UNLUCKY, TOO_LOUD, 30, 40]
    assert [(x.offset, x.fold, x.error_type) for x in bed.letters()] == [
        (1, "chain", "ValueError"),
        (2, "loud", "RecordTooLarge"),
        (4, None, "DecodeError"),
    ]
    assert task.engine is not None
    chain, loud, _ = task.engine.slots
    assert (chain.states["default/c"].count, loud.states["default/c"].count) == (4, 4)
    assert (chain.stats.dead_letters, loud.stats.dead_letters) == (1, 1)


async def test_a_letter_does_not_wait_for_records() -> None:
    """A fold that raises on what it once took is found by the restore, and reported though nothing else comes."""
    bed = Partition(lambda: [Echo()])
    bed.put(UNLUCKY)
    await bed.drain(await bed.up())
    bed.folds = lambda: [Chain()]
    await (await bed.up()).idle()
    assert [(x.fold, x.offset) for x in bed.letters()] == [("chain", 0)]


async def test_a_replayed_letter_counts_after_a_restart_as_before() -> None:
    """A dead letter replayed to its fold changes that fold's state once, also in every later restore."""

    class Mended(Chain):
        def on_event(self, state: Any, event: Any, at: float) -> Any:
            yield from super().on_event(state, event.model_copy(update={"value": event.value + 100}), at)

    bed = Partition(folds)
    bed.put(20, id="a")
    bed.put(UNLUCKY, id="b")
    await bed.drain(await bed.up())
    bed.folds = lambda: [Mended(), Silence(), Echo()]
    bed.put(UNLUCKY, id="b", extra=[("ce_replayof", b"chain")])
    bed.put(UNLUCKY, id="b")
    task = await bed.up()
    await bed.drain(task)
    assert task.engine is not None
    assert task.engine.slots[0].states["default/c"].count == 2
    assert [v for d, v, _ in bed.found() if d == "echo"] == [20, UNLUCKY]
    assert states((await bed.up()).engine) == states(task.engine)


async def test_the_position_moves_past_markers() -> None:
    """Told that the reader stands behind the log's last markers, the task commits that position, once."""
    bed = Partition(folds)
    bed.put(20)
    task = await bed.up()
    await bed.drain(task)
    done = bed.steps["commit.done"]
    await task.idle(5)
    await task.idle(5)
    assert bed.log.positions[SIGNALS, 0] == 5
    assert bed.steps["commit.done"] == done + 1


async def test_nothing_to_do_writes_nothing() -> None:
    """An idle task without changes commits nothing, however long it idles."""
    bed = Partition(folds, interval_s=ALWAYS)
    task = await bed.up()
    bed.put(20)
    await bed.drain(task)
    written = sum(len(bed.log.records(t, 0)) for t in bed.log.partitions)
    for _ in range(5):
        await task.idle()
    assert sum(len(bed.log.records(t, 0)) for t in bed.log.partitions) == written


async def test_live_ticks_are_written_with_their_position() -> None:
    """A tick is recorded with the offset that it follows, in the transaction of what it led to."""
    bed = Partition(lambda: [Silence()], interval_s=NEVER)
    bed.put(20)
    task = await bed.up()
    await bed.drain(task)
    await task.idle()
    assert bed.log.records(TICKS, 0) == []
    bed.log.now += 61
    bed.crash("commit.offsets")
    with pytest.raises(Crash):
        await task.idle()
    task = await bed.up()
    assert bed.log.records(TICKS, 0) == []
    assert bed.outputs() == []
    await task.idle()
    assert len(bed.log.records(TICKS, 0)) == len(bed.found()) == 1
    await task.idle()
    assert len(bed.log.records(TICKS, 0)) == 1


async def test_a_wake_comes_though_records_keep_coming() -> None:
    """Time is told after every batch: a busy partition is never idle, and its silent keys are noticed all the same."""
    bed = Partition(lambda: [Silence()])
    bed.put(20, "quiet")
    task = await bed.up()
    for _ in range(7):
        bed.log.now += 10
        bed.put(20, "busy")
        await bed.drain(task)
    assert bed.found() == [("silence", 1, bed.log.now - 10)]


class Shortened(MemoryLog):
    """A log that starts at offset 5."""

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See `streams.partitions.log.Log`."""
        _, end = await super().bounds(topic, partition)
        return (5 if topic == SIGNALS else 0), end


async def test_positions_outside_the_log_are_refused() -> None:
    """Below the log's start or behind its end, a position raises: it never silently means another one."""
    bed = Partition(folds)
    for i in range(10):
        bed.put(20 + i)
    bed.log.positions[SIGNALS, 0] = 11
    with pytest.raises(OffsetOutOfRange, match="up to 11, but the log has 0 to 10"):
        await bed.up()
    bed.log.__class__ = Shortened
    bed.log.positions[SIGNALS, 0] = 4
    with pytest.raises(OffsetOutOfRange, match="up to 4, but the log has 5 to 10"):
        await bed.up()
    bed.log.positions[SIGNALS, 0] = 5
    await bed.drain(await bed.up())
    assert bed.outputs()


async def test_a_forgotten_position_is_refused() -> None:
    """Where the group's position is gone but snapshots are there, starting over would write all outputs again."""
    bed = Partition(folds, interval_s=ALWAYS)
    bed.put(20)
    await bed.drain(await bed.up())
    del bed.log.positions[SIGNALS, 0]
    with pytest.raises(OffsetOutOfRange, match="position is gone"):
        await bed.up()


class Notes(msgspec.Struct):
    """Grows without bound."""

    texts: list[str] = []


class Swollen(Fold[Notes]):
    """Notes a megabyte and more of each TOO_LOUD."""

    name = "swollen"
    topics = (topics.SIGNALS,)
    accepts = (e.Signal,)
    state = Notes

    def initial(self, key: str) -> Notes:
        return Notes()

    def on_event(self, state: Notes, event: e.Event, at: float) -> Iterable[Output]:
        state.texts.append("x" * (1_200_000 if value_of(event) == TOO_LOUD else 1))
        return ()


async def test_a_state_that_cannot_be_saved_holds_nothing_up() -> None:
    """Too large a state is not saved; its partition goes on, and a restore folds it from the log."""
    bed = Partition(lambda: [Swollen(), Chain()], interval_s=ALWAYS)
    for value in (20, 21, TOO_LOUD, 30, 31, 32):
        bed.put(value)
    task = await bed.up()
    await bed.drain(task, 1)
    assert bed.log.positions[SIGNALS, 0] == 6
    names = [r.key for r in bed.log.records(CHANGELOG, 0)]
    assert names.count(b"marker") == 2, "none since it swelled"
    assert names.count(b"state\x00chain\x00default/c") == 6
    restored = await bed.up()
    assert restored.restored_events == 4
    assert states(restored.engine) == states(task.engine)
